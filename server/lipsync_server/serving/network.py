"""The server's ports, and the few calls that tell how it is."""

from __future__ import annotations

import contextlib
import errno
import random
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from lipsync_client.control.control import KEY_HEADER
from lipsync_server.serving.errors import ServingError

CHANNEL = [  # never through a proxy, and a server that starts is noticed at once
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
]
PRIVATE = range(10_000, 32_000)


def choose_ports(bind: str, ports: Mapping[str, int]) -> dict[str, int]:
    """Replace 0 by free ports and make sure that the others are free. Ports and results by name.

    Raises:
        ServingError: a port is in use or not allowed; names the port and its option.
    """
    chosen = {}
    with contextlib.ExitStack() as held:  # until all are chosen, so that none is given twice
        for name, port in ports.items():
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not count
            try:
                probe.bind((bind, port))
            except OSError as error:
                in_use = error.errno == errno.EADDRINUSE
                problem = "is in use: stop what holds it, or" if in_use else f"cannot be used ({error.strerror}):"
                raise ServingError(
                    f"Port {port} ({name}) on {bind} {problem} choose another with --{name}-port or "
                    f"`ports.{name}` in server.yaml."
                ) from None
            chosen[name] = probe.getsockname()[1]
    return chosen


def private_ports(count: int) -> list[int]:
    """Free ports of this machine, random ones.

    None is of those that the system gives to outgoing connections. Else a connection could take the port of a server
    that is being started again, even the very connection that looks for it.
    """
    found: list[int] = []
    outgoing = _outgoing()
    usable = [port for port in PRIVATE if port not in outgoing] or PRIVATE
    with contextlib.ExitStack() as held:
        for port in random.sample(usable, len(usable)):
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise ServingError(f"There are no {count} free ports on 127.0.0.1 from {PRIVATE.start} to {PRIVATE.stop - 1}.")


def _outgoing() -> range:
    """The ports that the system gives to outgoing connections."""
    try:
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        return range(32_768, 61_000)
    return range(first, last + 1)


class TritonApi:
    """Triton's gRPC API, as far as starting a server needs it.

    Args:
        url: host:port.
        key: the control key.
    """

    def __init__(self, url: str, key: str) -> None:
        self._headers = {KEY_HEADER: key}
        self._client = InferenceServerClient(url, channel_args=CHANNEL)

    def is_live(self) -> bool:
        """It answers, which it does when it has tried to load all models."""
        try:
            return bool(self._client.is_server_live(client_timeout=5))
        except InferenceServerException:
            return False

    def is_ready(self, model: str) -> bool:
        """A model takes requests."""
        try:
            return bool(self._client.is_model_ready(model, client_timeout=5))
        except InferenceServerException:
            return False

    def load(self, model: str, timeout: float) -> str | None:
        """Load a model; returns why it failed, or None.

        For an ensemble the reason is that of its failing step.
        """
        try:
            self._client.load_model(model, headers=self._headers, client_timeout=timeout)
        except InferenceServerException as error:
            return _reason(error.message() or "no reason given")
        return None

    def close(self) -> None:
        """End the connection."""
        self._client.close()


def _reason(text: str) -> str:
    """The useful part of Triton's answer to a failed load."""
    text = text.partition("\n\nAt:\n")[0]  # where in a Python stage it was raised: the log has it
    text = re.sub(r"^load failed for model '[^']*': ", "", text)
    step = re.search(
        r"Model '([^']+)' loading failed with error: (?:version \d+ is at UNAVAILABLE state: )?(.*)", text, re.S
    )
    if step:
        text = f"its step {step[1]}: {step[2]}"
    return " ".join(text.split()).rstrip(" .;")
