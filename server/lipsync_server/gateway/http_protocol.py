"""HTTP connections: only so many of one caller, and closed where a request's headers do not come within a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEADER_TIMEOUT_S", "TimedProtocol"]

HEADER_TIMEOUT_S = 10.0


class TimedProtocol(H11Protocol):
    """uvicorn's protocol, which itself waits for ever for the end of headers that have begun."""

    header_timeout_s = HEADER_TIMEOUT_S
    max_per_caller = 600
    open_of: ClassVar[Counter[str]] = Counter()  # connections, by the caller's address
    _timer: asyncio.TimerHandle | None = None
    _caller = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._caller = self.client[0] if self.client else ""
        self.open_of[self._caller] += 1
        if self.open_of[self._caller] > self.max_per_caller:
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self.open_of[self._caller] -= 1
        if not self.open_of[self._caller]:
            del self.open_of[self._caller]
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:  # headers are complete
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.header_timeout_s, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
