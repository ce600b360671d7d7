"""What is known of each request while it is worked on, and who is told when it has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

from lipsync_server.gateway.refusal import Refused
from lipsync_server.gateway.request_log import Record, RequestLog
from lipsync_server.gateway.tracing import Tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ["Observer", "observed", "upstream_headers"]

NOTHING: Mapping[str, str] = {}
_record: ContextVar[Record | None] = ContextVar("record", default=None)
_carrier: ContextVar[Mapping[str, str]] = ContextVar("carrier", default=NOTHING)  # of the request's headers
_headers: ContextVar[Sequence[tuple[str, str]]] = ContextVar("headers", default=())


def observed(*, model: str = "", avatar: str = "", frames: int = 0, code: str = "") -> None:
    """Say something of the request that is worked on. Code that serves no request may call it too."""
    record = _record.get()
    if record is not None:
        record.model = model or record.model
        record.avatar = avatar or record.avatar
        record.frames += frames
        record.code = code or record.code


def upstream_headers() -> Sequence[tuple[str, str]]:
    """The headers that carry the trace of the request that is worked on to a server."""
    return _headers.get()


class _Request:
    """A request is worked on while the block runs."""

    __slots__ = ("_began", "_end", "_span", "_tracer", "record")

    def __init__(self, record: Record, end: Callable[[Record], None], tracer: Tracer | None) -> None:
        self.record = record
        self._end = end
        self._tracer = tracer
        self._span: Span | None = None

    def __enter__(self) -> Record:
        self._began = time.perf_counter()
        if self._tracer:
            self._span = self._tracer.start(self.record, _carrier.get())
            _headers.set(self._tracer.headers(self._span))
        _record.set(self.record)  # every request has a task of its own, whose context ends with it
        return self.record

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        record = self.record
        record.ms = (time.perf_counter() - self._began) * 1000
        record.code = record.code or _code(error)
        if self._tracer and self._span:
            self._tracer.end(self._span, record)
        self._end(record)


class Observer:
    """Passes requests that have ended to the log and the tracer, as far as there are such."""

    def __init__(self, log: RequestLog | None = None, tracer: Tracer | None = None) -> None:
        self.log, self.tracer = log, tracer

    def request(
        self, protocol: str, method: str, caller: str, size: int = 0, carrier: Mapping[str, str] = NOTHING
    ) -> _Request:
        """A context manager for the work on a request; it gives the record.

        Args:
            protocol: "grpc", "http" or "monolithic".
            method: what is called.
            caller: its address.
            size: bytes of the request.
            carrier: its headers; those of a trace are read.
        """
        _carrier.set(carrier)
        return _Request(Record(time.time(), protocol, method, caller, bytes_in=size), self._ended, self.tracer)

    def stream(self, protocol: str, method: str, caller: str, carrier: Mapping[str, str] = NOTHING) -> _Request:
        """As `request`, for a stream, whose messages are the requests: it is told only where it was refused."""
        _carrier.set(carrier)
        return _Request(Record(time.time(), protocol, method, caller), self._refused, None)

    def request_of_stream(self, size: int) -> _Request:
        """As `request`, for a message of the stream that is worked on."""
        stream = _record.get()
        assert stream is not None, "streams are observed too"
        request = self.request(stream.protocol, stream.method, stream.caller, size, _carrier.get())
        request.record.token = stream.token
        return request

    def close(self) -> None:
        """End them, when all requests have ended."""
        if self.log:
            self.log.close()
        if self.tracer:
            self.tracer.close()

    def _ended(self, record: Record) -> None:
        if self.log:
            self.log.add(record)

    def _refused(self, record: Record) -> None:
        if record.code not in ("OK", "CANCELLED"):
            self._ended(record)


def _code(error: BaseException | None) -> str:
    if error is None:
        return "OK"
    if isinstance(error, Refused):
        return str(error.code.name)
    return "CANCELLED" if isinstance(error, (asyncio.CancelledError, GeneratorExit)) else "UNKNOWN"
