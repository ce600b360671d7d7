"""The avatar while it is silent: pictures that need no network, kept, and the way through the footage."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from lipsync_client.answers import Avatar, Patch
from lipsync_client.errors import InvalidRequest, LipsyncError
from lipsync_client.live.servers import Servers
from lipsync_composite.loop import footage_index

__all__ = ["Footage", "IdleWalk", "looped"]

AHEAD = 50  # frames fetched before they are needed: 2 s
BATCH = 10  # frames of one fetch
P = TypeVar("P", bound="bytes | Patch")
FAILED_S = 1.0  # pause after a fetch that was given up


def looped(position: int, avatar: Avatar) -> int:
    """The footage frame at a position of the avatar's endless loop."""
    return footage_index(position, avatar.footage_frames, avatar.loop)


class Pictures(Generic[P]):
    """JPEGs or patches by footage frame, within a bound: those not asked for longest go first.

    Args:
        max_bytes: of them all.
        least: pictures that are kept whatever their size.
    """

    def __init__(self, max_bytes: int, least: int) -> None:
        self._max_bytes, self._least = max_bytes, least
        self._kept: dict[Hashable, P] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, index: Hashable) -> P | None:
        picture = self._kept.pop(index, None)
        if picture is not None:
            self._kept[index] = picture  # the last to go
        return picture

    def keep(self, index: Hashable, picture: P) -> None:
        self._bytes += len(picture) - len(self._kept.pop(index, b""))
        self._kept[index] = picture
        while self._bytes > self._max_bytes and len(self._kept) > self._least:
            self._bytes -= len(self._kept.pop(next(iter(self._kept))))

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0


class Footage:
    """The avatar's pictures without sound: plain footage, fetched before it is needed, and talking frames of silence.

    A talking frame whose whole context is digital silence depends on nothing but its footage frame. So once it was
    rendered there it can be shown again, and is the very picture that rendering it again would give.

    Args:
        servers: where the plain frames come from.
        avatar: the avatar's facts.
        max_bytes: memory for either kind; a footage that fits is fetched only once. At least 2 s are kept of it.
    """

    def __init__(self, servers: Servers, avatar: Avatar, max_bytes: int) -> None:
        self.avatar = avatar
        self._failure: Exception | None = None  # of the last fetch
        self._servers = servers
        self._plain: Pictures[bytes] = Pictures(max_bytes, AHEAD + 2 * BATCH)
        self._silent: Pictures[bytes | Patch] = Pictures(max_bytes, 0)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def get(self, position: int) -> bytes | None:
        """The plain frame at a position of the loop, if it is here."""
        return self._plain.get(looped(position, self.avatar))

    def fits(self, picture: bytes | Patch) -> bool:
        """The picture is whole, or a patch of this footage: a mouth must never land on another face."""
        return not isinstance(picture, Patch) or picture.key == self.avatar.key

    def silent(self, position: int) -> bytes | Patch | None:
        """The talking frame of silence at a position of the loop, if it is here."""
        return self._silent.get(looped(position, self.avatar))

    def keep_silent(self, avatar: Avatar, position: int, picture: bytes | Patch) -> None:
        """Keep a talking frame of silence, unless the avatar that it was asked of was replaced meanwhile."""
        if avatar == self.avatar and self.fits(picture):
            self._silent.keep(looped(position, avatar), picture)

    def prefetch(self, position: int) -> None:
        """See to it that the frames from a position on are here in time. Returns at once."""
        if "fetch" in self._tasks:
            return
        missing = (at for at in range(position, position + AHEAD) if not self.get(at))
        first = next(missing, None)
        if first is not None:
            self._start("fetch", self._fetch_or_note(first))

    async def fetch(self, position: int) -> None:
        """Fetch a batch from a position on. Raises LipsyncError."""
        avatar = self.avatar
        try:
            frames = (await self._servers.footage(avatar.key, position, BATCH)).frames
        except InvalidRequest:  # perhaps the avatar was replaced, and its old content is gone
            await self.refresh()
            if self.avatar == avatar:
                raise
            avatar = self.avatar
            frames = (await self._servers.footage(avatar.key, position, BATCH)).frames
        if self.avatar == avatar:  # it may have been replaced meanwhile
            for offset, jpeg in enumerate(frames):
                self._plain.keep(looped(position + offset, avatar), jpeg)

    def start_refresh(self) -> None:
        """Begin `refresh`. Returns at once."""
        if "refresh" not in self._tasks:
            self._start("refresh", self._try_refresh())

    async def refresh(self) -> None:
        """Forget the frames if the avatar was replaced. Raises LipsyncError."""
        avatar = await self._servers.avatar()
        if avatar != self.avatar:
            self.avatar = avatar
            self._plain.clear()
            self._silent.clear()

    def report(self) -> None:
        """Raise the last fetch's failure, once."""
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    async def close(self) -> None:
        """Stop fetching."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch_or_note(self, position: int) -> None:
        try:
            await self.fetch(position)
            self._failure = None
        except Exception as failure:  # whatever it is, the consumer must learn of it if it stays so
            self._failure = failure
            await self._servers.pause(FAILED_S)

    async def _try_refresh(self) -> None:
        with suppress(LipsyncError):  # whatever else is called will fail as well, and be reported
            await self.refresh()

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._tasks.pop(name))


class IdleWalk:
    """The way through the footage while nobody speaks: one position a frame, never a jump.

    Talking frames are rendered for positions that are fixed when they are requested. Until they come the walk goes on
    to the position before the first of them, rests there for a moment, and then strolls back and forth in front of it.
    """

    REST = 3  # frames: 0.12 s without motion go unnoticed
    DEPTH = 6  # frames: how far it strolls away is how long it may take to come back

    def __init__(self) -> None:
        self._step = 1
        self._rested = 0

    def next(self, position: int, target: int | None, ready: bool) -> int:
        """The position after `position`.

        Args:
            position: where the walk is.
            target: position of the next talking frame, beyond `position`; None if there is none to come.
            ready: that frame is here.
        """
        if target is None or ready:
            self._step, self._rested = 1, 0
        elif position >= target - 1:
            if self._rested < self.REST:
                self._rested += 1
                return position
            self._step, self._rested = -1, 0
        elif self._step < 0 and position <= max(0, target - 1 - self.DEPTH):
            self._step = 1
        return max(0, position + self._step)
