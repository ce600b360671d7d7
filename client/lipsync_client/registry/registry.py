"""Keeps the avatars loaded that are used: loads them when they are asked for, and unloads others to make room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lipsync_client import wire
from lipsync_client.control.control import Control
from lipsync_client.control.states import AvatarOverview, AvatarState
from lipsync_client.errors import LipsyncError, LoadFailed
from lipsync_client.folders import cache_folder
from lipsync_client.locks import locked
from lipsync_client.registry.capacity import Places
from lipsync_client.registry.failures import Failures
from lipsync_client.registry.policy import choose_gpu
from lipsync_client.registry.settings import RegistrySettings

__all__ = ["Registry"]

logger = logging.getLogger(__name__)

LOAD_S = 600.0  # seconds that a load may take: a GPU may compile the network first
PLACE_S = 20.0  # seconds that a lease waits for a place while every loaded avatar is in use
TEND_S = 2.0  # seconds between two looks at what is idle, or was lost


@dataclass
class _Entry:
    """What the registry knows of an avatar."""

    used: float  # when it was last seen in use
    leases: int = 0
    uses: int = 0  # as last seen
    ensuring: asyncio.Task[None] | None = None  # makes it ready; all who wait for it share this


class Registry:
    """The one process that decides which avatars a server has loaded. For one event loop.

    >>> async with Registry("127.0.0.1:8001", RegistrySettings(max_models=8)) as registry:
    ...     async with registry.lease("anna"):  # loads it if it is not, and keeps it while the block runs
    ...         ...

    A second one for a server would unload what the first one's callers use: on one machine and for one user, it only
    loads, past the limits, and takes over when the first has ended. What others load or unload by hand is noticed and
    counted.

    Args:
        url: host:port of the server's gRPC endpoint.
        settings: limits and habits.
        key: the server's control key; by default what `find_key` finds.
        control: how to reach the server, instead of url and key.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        url: str = wire.DEFAULT_URL,
        settings: RegistrySettings | None = None,
        *,
        key: str | None = None,
        control: Control | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.settings = settings or RegistrySettings()
        self._control = control or Control(url, key=key, timeout=LOAD_S)
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._places = Places(self._control, self.settings, lambda avatar: self._entry(avatar).leases > 0, clock)
        self._failures = Failures(self._state, clock)
        self._to_preload = dict.fromkeys(self.settings.preload, logging.WARNING)  # how loud its next failure is
        self._placed = 0  # on GPUs, so far
        self._placing = asyncio.Lock()
        self._held: AbstractContextManager[None] | None = None  # the lock of who manages the server's avatars
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Begin to look after the server; its `preload` avatars come in the background, and nobody waits for them."""
        if not self._manages():
            logger.warning(
                "Another process manages the avatars of the server at %s. Until it ends, nothing is unloaded here.",
                self.url,
            )
        self._tasks = [asyncio.create_task(self._again_and_again(work)) for work in (self._preload, self.tend)]

    async def close(self) -> None:
        """Let go of the server at once, also if loads are on their way; avatars stay loaded. Who waits is cancelled."""
        tasks = [*self._tasks, *(entry.ensuring for entry in self._entries.values() if entry.ensuring)]
        for task in tasks:
            task.cancel()
        self._control.close()  # what threads wait for ends with it
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._places.close()
        if self._held:
            self._held.__exit__(None, None, None)

    async def __aenter__(self) -> Registry:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def lease(self, avatar: str) -> AsyncIterator[None]:
        """An avatar that is loaded, and stays so while the block runs.

        Raises:
            AvatarNotFound: there is none of that name in the server's repository.
            LoadFailed: it is broken. It is tried again later, or once the server says something else of it.
            Overloaded: every loaded avatar is in use, and stayed so for PLACE_S seconds.
            SettingsError: the limits leave no room for it beside the server's own avatars.
        """
        entry = self._entry(avatar)
        entry.leases += 1
        try:
            # Who gives up waiting does not stop the loading, which others may wait for.
            await asyncio.shield(self._start(avatar, entry))
            yield
        finally:
            entry.leases -= 1
            entry.used = self._clock()
            await self._places.tell()

    async def load(self, avatar: str) -> None:
        """Load an avatar now: also one that failed before, and anew if its files have changed. Errors as `lease`."""
        self._failures.forget(avatar)
        async with self.lease(avatar):
            await self._load(avatar)

    async def unload(self, avatar: str) -> None:
        """Unload an avatar. Raises LipsyncError if it is in use."""
        if self._entry(avatar).leases:
            raise LipsyncError(f"The avatar {avatar!r} is in use.")
        await self._places.unload(avatar)

    async def overview(self) -> list[AvatarOverview]:
        """Every avatar in the server's repository."""
        return await self._places.overview()

    def uses(self, avatar: str) -> int:
        """Requests that the server has answered for an avatar, as far as this registry saw: what `lfu` goes by."""
        return self._places.uses(avatar)

    async def tend(self) -> None:
        """Look after what time brings: avatars that nobody used for long, and those that the server lost."""
        for one in await self.overview():
            name, entry = one.state.id, self._entry(one.state.id)
            uses, now = self.uses(name), self._clock()
            if entry.leases or uses != entry.uses:
                entry.uses, entry.used = uses, now
            if entry.leases and one.state.phase in ("not loaded", "unloaded", "failed"):
                self._start(name, entry)
            elif name in self.settings.preload and one.state.phase == "not loaded":  # since the server was started
                self._to_preload.setdefault(name, logging.WARNING)
            if self._manages() and self._is_idle(name, now - entry.used) and self._places.candidates([one]):
                await self._places.unload(name)

    def _entry(self, avatar: str) -> _Entry:
        return self._entries.setdefault(avatar, _Entry(self._clock()))

    def _is_idle(self, avatar: str, seconds: float) -> bool:
        limit = self.settings.idle_timeout
        return limit is not None and seconds > limit and avatar not in self.settings.preload

    def _manages(self) -> bool:
        """Whether this is the one that decides what leaves; if another process was and has ended, it is from now on."""
        if self._held is None:
            lock = locked(_lock_file(self.url), wait=False)
            with contextlib.suppress(BlockingIOError):
                lock.__enter__()
                self._held = lock
        return self._held is not None

    async def _preload(self) -> None:
        if not self._manages():
            return
        for avatar, level in list(self._to_preload.items()):
            try:
                await self._start(avatar, self._entry(avatar))  # without a lease: it waits for nobody's place
                del self._to_preload[avatar]
            except LipsyncError as error:
                logger.log(level, "Not preloaded yet: %s", error)
                self._to_preload[avatar] = logging.DEBUG

    async def _again_and_again(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(LipsyncError):  # a server that is away comes back, or the next lease tells
                await work()
            await asyncio.sleep(TEND_S)

    def _start(self, avatar: str, entry: _Entry) -> asyncio.Task[None]:
        """Begin to make it ready, or join those who did."""
        if entry.ensuring is None or entry.ensuring.done():
            entry.ensuring = asyncio.create_task(self._make_ready(avatar))
            entry.ensuring.add_done_callback(lambda task: task.cancelled() or task.exception())  # perhaps nobody waits
        return entry.ensuring

    async def _make_ready(self, avatar: str) -> None:
        deadline = self._clock() + PLACE_S
        await self._places.left(avatar)
        if await self._places.do(self._control.ready, avatar):
            self._failures.forget(avatar)
            return
        await self._failures.respect(avatar)
        async with self._places.taken(avatar, deadline) if self._manages() else contextlib.nullcontext():
            try:
                await self._load(avatar)
            except LoadFailed as error:
                await self._failures.note(avatar, error)
                raise
        self._failures.forget(avatar)

    async def _load(self, avatar: str) -> None:
        await self._places.do(self._control.load, avatar)
        if not self.settings.gpus:
            return
        async with self._placing:
            placed = {one.state.id: (one.gpus[0], one.memory_mb or 0) for one in await self.overview() if one.gpus}
            placed.pop(avatar, None)
            gpu = choose_gpu(self.settings.gpus, placed, self.settings.placement, self._placed)
            self._placed += 1
            try:
                await self._places.do(self._control.place, avatar, gpu)
            except LoadFailed:
                await self._places.do(self._control.unload, avatar)
                raise

    async def _state(self, avatar: str) -> AvatarState:
        for state in await self._places.do(self._control.avatars):
            if state.id == avatar:
                return state
        return AvatarState(avatar, False, "gone")


def _lock_file(url: str) -> Path:
    name = re.sub(r"[^a-z0-9.-]", "_", url.lower().replace("localhost", "127.0.0.1"))
    return cache_folder() / f"registry-{name}.lock"
