"""Malformed requests over HTTP, as the bytes of a connection."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from random import Random
from typing import Any

from lipsync_server.reliability.kinds import Kinds
from lipsync_server.reliability.malformed_grpc import HUGE, changed

__all__ = ["HTTP", "HttpRequest"]

INFER = "/v2/models/lipsync_ensemble/infer"
CLOSED = "closed"  # without an answer
SHAPES: tuple[Any, ...] = ([], [-1], [640, 1], [1] * 1000, "640", None, [640.5], [True], {})
HOST = "{host}"  # in the bytes of a request: where the gateway answers


@dataclass(frozen=True)
class HttpRequest:
    """What is sent, `{host}` standing for host:port; `stops`: the rest never comes."""

    data: bytes
    stops: bool = False


HTTP: Kinds[HttpRequest] = Kinds()


def request(body: bytes, path: str = INFER, method: str = "POST", **headers: str) -> HttpRequest:
    """A request; a header with "" is left out."""
    names = {"host": HOST, "content-length": str(len(body)), "connection": "close"}
    given = names | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value)]
    return HttpRequest("\r\n".join([*lines, "", ""]).encode() + body)


def asked(outputs: Any = None, **changes: Any) -> dict[str, Any]:
    """The JSON of a request for one frame."""
    tensor = {"name": "AUDIO", "shape": [640], "datatype": "FP32", "data": [0.0] * 640} | changes
    return {"inputs": [tensor], "outputs": outputs or [{"name": "JPEG", "parameters": {"binary_data": True}}]}


def infer(body: Any, **headers: str) -> HttpRequest:
    return request(json.dumps(body).encode(), **headers)


@HTTP.add("a shape whose bytes overflow", weight=3)
def _huge(random: Random) -> HttpRequest:
    size = random.choice((*HUGE, random.randint(2**31, 2**70)))
    shape = random.choice(([size], [size, 2], [2**32, 2**32], [size] * 4))
    return infer(asked(shape=shape, data=random.choice(([], [0.0]))))


@HTTP.add("JSON nested up to 500,000 deep", weight=0.1)
def _nested(random: Random) -> HttpRequest:
    deep = random.choice((17, 1_000, 100_000, 500_000))
    opening = random.choice((b"[", b'{"a":', b'{"inputs":['))
    return request(b'{"inputs":' + opening * deep + (b"]" * deep if random.random() < 0.5 else b""))


@HTTP.add("bodies in chunks, up to 700,000 of one byte", weight=0.1)
def _chunks(random: Random) -> HttpRequest:
    body = b"1\r\n \r\n" * random.choice((1, 1_000, 700_000)) + b"0\r\n\r\n"
    expect = random.choice(("", "100-continue"))
    return request(body, content_length="", transfer_encoding="chunked", expect=expect)


@HTTP.add("pages of other origins, other host names")
def _origin(random: Random) -> HttpRequest:
    origins = ("http://evil.example", "null", "http://127.0.0.1:1", "http://[", "x" * 3000)
    hosts = ("evil.example", "127.0.0.1.evil.example:80", "[", "127.0.0.1@evil.example")
    headers = random.choice(
        ({"origin": random.choice(origins)}, {"sec_fetch_site": "cross-site"}, {"host": random.choice(hosts)})
    )
    return infer(asked(), content_type="text/plain", **headers)


@HTTP.add("classification, shared memory, other parameters")
def _parameters(random: Random) -> HttpRequest:
    name = random.choice(("classification", "shared_memory_region", "shared_memory_byte_size", "anything"))
    parameters: dict[str, Any] = {name: random.choice((1, "lipsync", 2**62, None, [], {}))}
    if random.random() < 0.5:
        return infer(asked(parameters=parameters))
    return infer(asked([{"name": "JPEG", "parameters": {"binary_data": True, **parameters}}]))


@HTTP.add("bodies that are no JSON of a request", weight=2)
def _no_json(random: Random) -> HttpRequest:
    bodies = (b"", b"\xff", b"{", b"null", b'{"inputs": 3}', b'{"inputs": [[]]}', b"1" * 5000, b'{"inputs": {}}')
    return request(random.choice((*bodies, random.randbytes(1000), b'{"inputs": [' + b"{}," * 9999 + b"{}]}")))


@HTTP.add("data of other types and counts", weight=2)
def _data(random: Random) -> HttpRequest:
    values: tuple[Any, ...] = ("x", None, {}, [], 10**400, -1e308, "nan")
    data = [random.choice(values)] * random.choice((1, 639, 640, 641))
    return infer(asked(data=random.choice((data, [data], "AAAA", 5, None, {"0": 1}))))


@HTTP.add("NaN and Infinity as JSON has them not")
def _not_finite(random: Random) -> HttpRequest:
    return infer(asked(data=[float(random.choice(("nan", "inf", "-inf")))] * 640))


@HTTP.add("other names, types and shapes")
def _names(random: Random) -> HttpRequest:
    changes: tuple[dict[str, Any], ...] = (
        *({"name": name} for name in ("audio", "", "x" * 5000, None, 5, "mouth", "\0")),
        *({"datatype": kind} for kind in ("FP64", "BYTES", "", None, 5, "FP32 ")),
        *({"shape": shape} for shape in SHAPES),
    )
    return infer(asked(**random.choice(changes)))


@HTTP.add("values that the stages refuse", weight=3)
def _values(random: Random) -> HttpRequest:
    name, kind, value = random.choice(
        (
            *(("FRAME_COUNT", "INT32", count) for count in (0, -1, 33, 2**31 - 1)),
            *(("FIRST_FRAME", "INT64", first) for first in (-1, 1, 2**63 - 1)),
            *(("AUDIO_START", "INT64", start) for start in (1, -1, 2**62)),
            *(("FOOTAGE_START", "INT64", start) for start in (-1, 2**63 - 1)),
            ("AUDIO_END", "BOOL", False),
        )
    )
    body = asked()
    body["inputs"].append({"name": name, "shape": [1], "datatype": kind, "data": [value]})
    return infer(body)


@HTTP.add("binary data of other sizes than stated")
def _binary(random: Random) -> HttpRequest:
    size = random.choice((0, 1, 2559, 2561, 2**40, -1, None, "2560"))
    tensor = {"name": "AUDIO", "shape": [640], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    lengths = (len(head), len(head) - 1, len(head) + 5000, -1, "", "9" * 30, "x")
    length = str(random.choice(lengths))
    return request(head + bytes(random.choice((0, 2559, 2561))), inference_header_content_length=length)


@HTTP.add("JPEG asked for as JSON")
def _json_output(random: Random) -> HttpRequest:
    return infer(random.choice((asked([{"name": "JPEG"}]), {"inputs": asked()["inputs"]}, asked([{"name": "X"}]))))


@HTTP.add("compressed bodies", weight=0.2)
def _packed(random: Random) -> HttpRequest:
    body = gzip.compress(bytes(50_000_000), 1) if random.random() < 0.1 else b"x"
    return request(body, content_encoding=random.choice(("gzip", "deflate", "br", "x")))


@HTTP.add("bodies above the limits", weight=0.02)
def _large(random: Random) -> HttpRequest:
    if random.random() < 0.3:
        return request(b" " * (9 << 20))
    return request(b"{}", content_length=random.choice((str(10**12), "9" * 18, "9" * 400)))


@HTTP.add("paths and methods that are closed, or none", weight=2)
def _paths(random: Random) -> HttpRequest:
    paths = (
        "/v2/repository/index",
        "/v2/repository/models/lipsync_ensemble/unload",
        "/v2/systemsharedmemory/region/x/register",
        "/v2/trace/setting",
        "/v2/logging",
        *(f"/v2/models/{name}/infer" for name in ("..%2f..%2fx", "%00", "lipsync", "nobody", "x" * 5000)),
        "/v2/models/lipsync_ensemble/versions/-1/infer",
        "/../../etc/passwd",
        "/" + "a" * 9000,
        "http://evil.example/",
    )
    if random.random() < 0.7:
        return request(json.dumps(asked()).encode(), random.choice(paths), lipsync_control="wrong")
    return request(b"", method=random.choice(("PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "X" * 100)))


@HTTP.add("what is no HTTP", also=(CLOSED,))
def _no_http(random: Random) -> HttpRequest:
    begun = f"POST {INFER} HTTP/1.1\r\nhost: {HOST}\r\n".encode()
    lines = (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(500),  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST\r\n\r\n",
        begun + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        begun + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        begun + b"content-length: -5\r\n\r\n",
        begun + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
        begun + b"x: y\r\n" * 20_000 + b"\r\n",
        begun + b"a\0b: c\r\n\r\n",
        random.randbytes(3000) + b"\r\n\r\n",
    )
    return HttpRequest(random.choice(lines))


@HTTP.add("changed bytes of a good request", weight=3, also=("200", CLOSED))
def _changed(random: Random) -> HttpRequest:
    body = changed(random, json.dumps(asked(data=[0.5] * 640)).encode())
    return request(body)


@HTTP.add("headers that stop", weight=0.01, also=(CLOSED,))
def _headers_stop(random: Random) -> HttpRequest:
    begun = (b"", b"GET /healthz HT", f"POST {INFER} HTTP/1.1\r\nhost: {HOST}\r\nx-slow: ".encode())
    return HttpRequest(random.choice(begun), stops=True)


@HTTP.add("a body that stops", weight=0.01)
def _body_stops(random: Random) -> HttpRequest:
    return HttpRequest(request(b"{", content_length="1000").data, stops=True)
