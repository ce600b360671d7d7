"""Callers who do nothing wrong: live streams and renderings, each of whose frames is compared with the right one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lipsync_client import AsyncClient, LipsyncError, LiveSession
from lipsync_server import home
from lipsync_server.pipeline import LocalPipeline

__all__ = ["FRAMES", "GoodCallers", "Reference", "served_well"]

RATE = 16_000
SPEECH = home.read_sample()[: 3 * RATE]
FRAMES = 75  # of it
PIECES = 24
TIMEOUT_S = 60.0  # of an attempt of a request: the clients wait for a server that is started again
STUCK_S = 300.0  # without the end of a speech of 3 s
PAUSE = 25  # idle frames between two speeches


def digest(jpeg: bytes) -> bytes:
    return hashlib.blake2b(jpeg, digest_size=12).digest()


class Reference:
    """The right frames of `SPEECH`: made whole, in this process, by the same networks. No server had a part in them."""

    def __init__(self, repository: Path) -> None:
        self._pipeline = LocalPipeline(repository)
        facts = self._pipeline.avatar.facts
        self.period = facts.frames if facts.loop == "forward" else max(1, 2 * facts.frames - 2)
        self._made: dict[int, list[bytes]] = {}

    def frames(self, start: int) -> list[bytes]:
        """Digests of its frames where the first is at a position of the footage."""
        if start not in self._made:
            self._made[start] = [digest(frame.jpeg) for frame in self._pipeline.render(SPEECH, start)]
        return self._made[start]


@dataclass
class GoodCallers:
    """What all good callers of a part saw.

    Attributes:
        speeches, frames: live ones that were shown.
        lost, doubled: live frames that were not shown, or twice.
        late: frame times within a live speech that had no talking frame yet.
        renderings: whole ones; `frames_rendered` in all.
        failures: sentences of requests that were given up.
        shown: how often each (number in the speech, position of the speech in the footage, digest) came.
        gap_s: the longest time between two talking frames of a live speech since the last call of `longest_gap`.
    """

    speeches: int = 0
    frames: int = 0
    lost: int = 0
    doubled: int = 0
    late: int = 0
    renderings: int = 0
    frames_rendered: int = 0
    failures: list[str] = field(default_factory=list)
    shown: Counter[tuple[int, int, bytes]] = field(default_factory=Counter)
    gap_s: float = 0.0

    def longest_gap(self) -> float:
        """Seconds that a live speech stood still at most, since the last call."""
        gap, self.gap_s = self.gap_s, 0.0
        return gap

    def account(self, numbers: list[int]) -> None:
        """The frames of a live speech, in the order in which they were shown."""
        self.speeches += 1
        self.frames += len(numbers)
        self.lost += FRAMES - len(set(numbers))
        self.doubled += len(numbers) - len(set(numbers))
        if any(second < first for first, second in itertools.pairwise(numbers)):
            self.failures.append("frames of a live speech came out of order")

    def result(self, reference: Reference) -> dict[str, Any]:
        """Plain numbers; `wrong` counts frames that are not the reference's bytes."""
        wrong = 0
        for (number, start, found), times in self.shown.items():
            if reference.frames(start % reference.period)[number] != found:
                wrong += times
        counts = ("speeches", "frames", "lost", "doubled", "late", "renderings", "frames_rendered")
        failures = list(dict.fromkeys(self.failures))
        return {name: getattr(self, name) for name in counts} | {"wrong": wrong, "failures": failures[:10]}


@contextlib.asynccontextmanager
async def served_well(
    url: str, reference: Reference, *, streams: int = 2, render_every_s: float | None = 0.0
) -> AsyncIterator[GoodCallers]:
    """Live streams, and renderings one after the other, while the block runs; those that have begun are finished.

    Args:
        url: host:port of the gateway's gRPC.
        reference: only its period is used: the comparison is for afterwards.
        render_every_s: from the beginning of a rendering to that of the next; None: there are none.
    """
    seen, over = GoodCallers(), asyncio.Event()
    callers = [asyncio.create_task(_stream(url, seen, reference.period, over)) for _ in range(streams)]
    if render_every_s is not None:
        callers.append(asyncio.create_task(_renderings(url, seen, render_every_s, over)))
    try:
        yield seen
        over.set()
        await asyncio.gather(*callers)
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


async def _stream(url: str, seen: GoodCallers, period: int, over: asyncio.Event) -> None:
    async with LiveSession(url, timeout=TIMEOUT_S) as session:
        while not over.is_set():
            numbers: list[int] = []
            try:
                await _speech(session, seen, period, numbers)
                await _idle(session)
            except LipsyncError as error:
                seen.failures.append(f"a live stream: {error}")
                await session.interrupt()
            except TimeoutError:
                seen.failures.append(f"a live stream stood still for {STUCK_S:g} s")
                await session.interrupt()
            seen.account(numbers)


async def _speech(session: LiveSession, seen: GoodCallers, period: int, numbers: list[int]) -> None:
    """Say the speech, and take its frames at their times."""

    async def push() -> None:
        for piece in np.array_split(SPEECH, PIECES):
            await session.push(piece, RATE)
        await session.end_speech()

    pushing = asyncio.create_task(push())
    began = before = time.monotonic()
    try:
        async for frame in session:
            now = time.monotonic()
            if frame.speech_frame is not None:
                start = (frame.footage_position - frame.speech_frame) % period
                seen.shown[frame.speech_frame, start, digest(frame.jpeg)] += 1
                numbers.append(frame.speech_frame)
                seen.gap_s, before = max(seen.gap_s, now - before), now
            elif frame.state == "speaking":
                seen.late += 1
            if frame.last:
                break
            if now - began > STUCK_S:
                raise TimeoutError
        await pushing
    finally:
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)


async def _idle(session: LiveSession) -> None:
    count = 0
    async for _ in session:
        count += 1
        if count == PAUSE:
            return


async def _renderings(url: str, seen: GoodCallers, every_s: float, over: asyncio.Event) -> None:
    async with AsyncClient(url, timeout=TIMEOUT_S) as client:
        while not over.is_set():
            due = time.monotonic() + every_s
            numbers: list[int] = []
            try:
                async with contextlib.aclosing(client.render(SPEECH, chunk=8)) as frames:
                    async for frame in frames:
                        seen.shown[len(numbers), 0, digest(frame.jpeg)] += 1
                        numbers.append(frame.index)
            except LipsyncError as error:
                seen.failures.append(f"a rendering: {error}")
            seen.renderings += 1
            seen.frames_rendered += len(numbers)
            seen.lost += FRAMES - len(numbers)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(over.wait(), max(0.0, due - time.monotonic()))
