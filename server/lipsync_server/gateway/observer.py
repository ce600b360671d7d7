"""What is known of each request while it is worked on, and who is told when it has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType

from lipsync_server.gateway.refusal import Refused
from lipsync_server.gateway.request_log import Record, RequestLog

__all__ = ["Observer", "observed"]

_record: ContextVar[Record | None] = ContextVar("record", default=None)


def observed(*, model: str = "", avatar: str = "", frames: int = 0, code: str = "") -> None:
    """Say something of the request that is worked on. Code that serves no request may call it too."""
    record = _record.get()
    if record is not None:
        record.model = model or record.model
        record.avatar = avatar or record.avatar
        record.frames += frames
        record.code = code or record.code


class _Request:
    """A request is worked on while the block runs."""

    __slots__ = ("_began", "_end", "record")

    def __init__(self, record: Record, end: Callable[[Record], None]) -> None:
        self.record = record
        self._end = end

    def __enter__(self) -> Record:
        self._began = time.perf_counter()
        _record.set(self.record)  # every request has a task of its own, whose context ends with it
        return self.record

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        record = self.record
        record.ms = (time.perf_counter() - self._began) * 1000
        record.code = record.code or _code(error)
        self._end(record)


class Observer:
    """Passes requests that have ended to the log, if there is one."""

    def __init__(self, log: RequestLog | None = None) -> None:
        self.log = log

    def request(
        self, protocol: str, method: str, caller: str, size: int = 0, *, failures_only: bool = False
    ) -> _Request:
        """A context manager for the work on a request; it gives the record.

        Args:
            protocol: "grpc", "http" or "monolithic".
            method: what is called.
            caller: its address.
            size: bytes of the request.
            failures_only: it is no request itself, so it is told only where it was refused.
        """
        record = Record(time.time(), protocol, method, caller, bytes_in=size)
        return _Request(record, self._refused if failures_only else self._ended)

    def request_of_stream(self, size: int) -> _Request:
        """As `request`, for a message of the stream that is worked on."""
        stream = _record.get()
        assert stream is not None, "streams are observed too"
        request = self.request(stream.protocol, stream.method, stream.caller, size)
        request.record.token = stream.token
        return request

    def close(self) -> None:
        """End the log, when all requests have ended."""
        if self.log:
            self.log.close()

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
