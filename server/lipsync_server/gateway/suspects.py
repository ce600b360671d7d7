"""Requests that ran when an upstream ended or a stage of it did: one of them may have ended it, and would again."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lipsync_server.gateway.refusal import Refused, invalid

__all__ = ["Run", "Suspects"]

BLAMED = 2  # ends for which nothing but the request can be blamed: it is not sent again
KEPT_S = 600.0
MAX_KEPT = 1000


@dataclass
class _Suspect:
    until: float
    blame: int = 0


@dataclass(eq=False)
class Run:
    """An attempt of a request.

    Attributes:
        data: the request.
        suspect: it ran already when an upstream ended.
        company: another request has run meanwhile.
    """

    data: bytes
    suspect: bool
    company: bool = False


class Suspects:
    """Bounds what one request can end, and lets those that merely ran at the time be sent again.

    A suspect runs when no other suspect does. So if an upstream ends again, this one is to blame, and not those that
    run for the first time. It is refused when it has been blamed twice. A request that ran alone at its first time is
    blamed for that too. Requests are told apart by their bytes, so that one that its caller sends again is known.

    Args:
        now: monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._known: OrderedDict[bytes, _Suspect] = OrderedDict()  # by digest, the oldest first
        self._one_at_a_time = asyncio.Lock()
        self._running: set[Run] = set()

    @asynccontextmanager
    async def running(self, data: bytes) -> AsyncIterator[Run]:
        """One attempt of a request. A suspect waits for its turn. Raises Refused if it is to blame."""
        if self._find(data) is None:
            run = Run(data, suspect=False, company=bool(self._running))
            for other in self._running:
                other.company = True
            self._running.add(run)
            try:
                yield run
            finally:
                self._running.discard(run)
            return
        async with self._one_at_a_time:
            suspect = self._find(data)  # the same request may have been sent twice, and have ended the server since
            if suspect and suspect.blame >= BLAMED:
                raise _refused()
            yield Run(data, suspect=True)

    def died(self, run: Run) -> None:
        """The upstream of a run has ended, or a stage of it. Raises Refused if this request is to blame."""
        digest = _digest(run.data)
        suspect = self._known.pop(digest, None) or _Suspect(0.0)
        suspect.until = self._now() + KEPT_S
        suspect.blame += run.suspect or not run.company
        self._known[digest] = suspect
        if len(self._known) > MAX_KEPT:
            self._known.popitem(last=False)
        if suspect.blame >= BLAMED:
            raise _refused()

    def survived(self, run: Run) -> None:
        """The upstream of a run has answered: the request ends nothing."""
        if run.suspect:
            self._known.pop(_digest(run.data), None)

    def _find(self, data: bytes) -> _Suspect | None:
        while self._known and next(iter(self._known.values())).until <= self._now():
            self._known.popitem(last=False)
        return self._known.get(_digest(data)) if self._known else None  # else no time is taken for a digest


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _refused() -> Refused:
    return invalid(
        f"the server ended {BLAMED} times while it worked on this request: the same request is not taken for"
        f" {KEPT_S / 60:.0f} minutes",
        "ended the server",
    )
