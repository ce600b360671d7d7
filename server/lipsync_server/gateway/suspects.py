"""Requests that ran when an upstream ended or a stage of it did: one of them may have ended it, and would again."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from lipsync_server.gateway.refusal import Refused, invalid, overloaded

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
        patience_s: seconds for which a suspect waits for its turn.
    """

    def __init__(self, now: Callable[[], float], patience_s: float) -> None:
        self._now = now
        self._patience = patience_s
        self._known: OrderedDict[tuple[int, bytes], _Suspect] = OrderedDict()  # the oldest first
        self._one_at_a_time = asyncio.Lock()
        self._running: set[Run] = set()

    @asynccontextmanager
    async def running(self, data: bytes) -> AsyncIterator[Run]:
        """One attempt of a request. A suspect waits for its turn. Raises Refused if it is to blame, or waited long."""
        if self._find(data) is None:
            with self._beside_others(Run(data, suspect=False)) as run:
                yield run
            return
        try:
            await asyncio.wait_for(self._one_at_a_time.acquire(), self._patience)
        except asyncio.TimeoutError:
            raise overloaded("requests that ran when a server ended run one after the other: another works") from None
        try:
            suspect = self._find(data)  # the same request may have been sent twice, and have ended the server since
            if suspect and suspect.blame >= BLAMED:
                raise _refused()
            with self._beside_others(Run(data, suspect=True)) as run:
                yield run
        finally:
            self._one_at_a_time.release()

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

    @contextmanager
    def _beside_others(self, run: Run) -> Iterator[Run]:
        run.company = bool(self._running)
        for other in self._running:
            other.company = True
        self._running.add(run)
        try:
            yield run
        finally:
            self._running.discard(run)

    def _find(self, data: bytes) -> _Suspect | None:
        while self._known and next(iter(self._known.values())).until <= self._now():
            self._known.popitem(last=False)
        if all(length != len(data) for length, _ in self._known):
            return None  # and no time is taken for a digest
        return self._known.get(_digest(data))


def _digest(data: bytes) -> tuple[int, bytes]:
    return len(data), hashlib.blake2b(data, digest_size=16).digest()


def _refused() -> Refused:
    return invalid(
        f"the server ended {BLAMED} times while it worked on this request: the same request is not taken for"
        f" {KEPT_S / 60:.0f} minutes",
        "ended the server",
    )
