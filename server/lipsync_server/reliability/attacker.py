"""One client that sends malformed requests, as a process of its own, and counts what it is answered.

    python -m lipsync_server.reliability.attacker OPTIONS

OPTIONS is the JSON of `Order`. It prints a line of JSON for every hundredth request, and its counts at the end.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import grpc
from tritonclient.grpc.service_pb2 import ModelStreamInferResponse

from lipsync_server.gateway.monolithic_proto import message
from lipsync_server.reliability.kinds import Kind, Kinds
from lipsync_server.reliability.malformed_grpc import GRPC, GrpcRequest
from lipsync_server.reliability.malformed_http import CLOSED, HTTP, HttpRequest
from lipsync_server.reliability.malformed_monolithic import MONOLITHIC

__all__ = ["Answers", "Attacker", "Order"]

HUNG = "no answer in time"
TIMEOUT_S = 60.0
REFUSED = {  # the answers that a malformed request may have
    "grpc": {"INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED"},
    "http": {"400", "401", "403", "404", "405", "408", "411", "413", "414", "415", "417", "422", "431"},
    "monolithic": {"success false"},
}
REFUSED["grpc"] |= {"UNIMPLEMENTED"}
REFUSED["monolithic"] |= REFUSED["grpc"]
PORTS: dict[str, Kinds[Any]] = {"grpc": GRPC, "http": HTTP, "monolithic": MONOLITHIC}
MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Order:
    """What one client is to do: where to, how many requests to each port, and the seed of its random numbers."""

    grpc: str
    http: str
    monolithic: str
    requests: dict[str, int]
    seed: int


@dataclass
class Answers:
    """What was answered.

    Attributes:
        counts: by port, kind and answer: "port|kind|answer".
        unexpected: those that should not be, counted the same way.
        examples: a few of these, with their sentences.
        slowest_s: the longest that an answer took, but for requests that stop.
    """

    counts: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def add(self, port: str, name: str, also: frozenset[str], code: str, sentence: str) -> None:
        """Count an answer."""
        self.counts[f"{port}|{name}|{code}"] += 1
        if code not in REFUSED[port] | also:
            self.unexpected[f"{port}|{name}|{code}"] += 1
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.append(f"{port}, {name}: {code}: {sentence[:300]}")


class Attacker:
    """Sends what it is ordered to. Every request has a time-out."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._random = Random(order.seed)
        self._stopped: list[tuple[Kind[HttpRequest], socket.socket]] = []
        self.answers = Answers()

    def run(self, progress: Callable[[int], None]) -> Answers:
        """Send everything, the ports mixed."""
        plan: list[tuple[str, Kind[Any]]] = []
        for port, kinds in PORTS.items():
            chosen = kinds.in_turn(self._random, self._order.requests.get(port, 0))
            plan += [(port, kind) for kind in chosen]
        self._random.shuffle(plan)
        options = [("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
        with (
            grpc.insecure_channel(self._order.grpc, options=options) as kserve,
            grpc.insecure_channel(self._order.monolithic, options=options) as monolithic,
        ):
            for number, (port, kind) in enumerate(plan):
                asked = kind.make(self._random)
                began = time.monotonic()
                if isinstance(asked, HttpRequest):
                    self._http(kind, asked)
                else:
                    code, sentence = _call(kserve if port == "grpc" else monolithic, asked)
                    self.answers.add(port, kind.name, kind.also, code, sentence)
                self.answers.slowest_s = max(self.answers.slowest_s, time.monotonic() - began)
                if number % 100 == 99:
                    progress(number + 1)
        self._wait_for_stopped()
        return self.answers

    def _http(self, kind: Kind[HttpRequest], asked: HttpRequest) -> None:
        host, _, port = self._order.http.partition(":")
        connection = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
        data = asked.data.replace(b"{host}", self._order.http.encode())
        if asked.stops:
            connection.sendall(data)
            self._stopped.append((kind, connection))
            return
        with connection:
            self.answers.add("http", kind.name, kind.also, *_exchange(connection, data))

    def _wait_for_stopped(self) -> None:
        """The requests that stop are answered, or their connections closed, by the gateway's own time-outs."""
        for kind, connection in self._stopped:
            with connection:
                self.answers.add("http", kind.name, kind.also, *_exchange(connection, b""))


def _call(channel: grpc.Channel, asked: GrpcRequest) -> tuple[str, str]:
    """The answer's status and sentence."""
    packed = grpc.Compression.Gzip if asked.packed else grpc.Compression.NoCompression
    try:
        if asked.stream:
            call = channel.stream_stream(asked.method)
            answers = list(call(iter([asked.data]), timeout=TIMEOUT_S, metadata=asked.metadata))
            errors = [ModelStreamInferResponse.FromString(one).error_message for one in answers]
            return ("INVALID_ARGUMENT" if errors and all(errors) else "OK"), "; ".join(errors)
        answer = channel.unary_unary(asked.method)(
            asked.data, timeout=TIMEOUT_S, metadata=asked.metadata, compression=packed
        )
    except grpc.RpcError as error:
        timed_out = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return (HUNG if timed_out else error.code().name), error.details() or ""
    if asked.method.startswith("/monolithic."):
        return _success(asked.method, answer)
    return "OK", ""


def _success(method: str, answer: bytes) -> tuple[str, str]:
    """As the monolithic API says it: in the answer."""
    name = method.rpartition("/")[2].replace("Infer", "").replace("BatchComposite", "CompositeBatch") + "Response"
    said = message(name).FromString(answer)
    if not hasattr(said, "success"):
        return "OK", ""
    return ("success" if said.success else "success false"), said.error


def _exchange(connection: socket.socket, data: bytes) -> tuple[str, str]:
    """Send, and read the status and the body of the answer, which may come before all was read."""
    connection.settimeout(TIMEOUT_S)
    answer = b""
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            for part in _received(connection):
                answer += part
                if _is_whole(answer):
                    break
    except TimeoutError:
        return HUNG, answer.decode(errors="replace")
    if not answer.startswith(b"HTTP/"):
        return CLOSED, answer.decode(errors="replace")
    return answer.split(None, 2)[1].decode(), answer.rpartition(b"\r\n\r\n")[2].decode(errors="replace")


def _received(connection: socket.socket) -> Iterator[bytes]:
    while part := connection.recv(65536):
        yield part


def _is_whole(answer: bytes) -> bool:
    head, _, rest = answer.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].split()
    return bool(length) and len(rest) >= int(length[0])


def main() -> None:
    """Do what the first argument orders."""
    order = Order(**json.loads(sys.argv[1]))
    answers = Attacker(order).run(lambda sent: print(json.dumps({"sent": sent}), flush=True))
    print(json.dumps(vars(answers)), flush=True)


if __name__ == "__main__":
    main()
