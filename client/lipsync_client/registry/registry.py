"""Loads avatars on demand, keeps the ones in use, and evicts others to make room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lipsync_client import wire
from lipsync_client.connection import Endpoint
from lipsync_client.control.control import Control
from lipsync_client.control.states import AvatarOverview, AvatarState
from lipsync_client.errors import LipsyncError, LoadFailed
from lipsync_client.folders import cache_folder
from lipsync_client.locks import locked
from lipsync_client.registry.capacity import Capacity
from lipsync_client.registry.failures import Failures
from lipsync_client.registry.settings import RegistrySettings

__all__ = ["Registry"]

logger = logging.getLogger(__name__)

ASK_S = 30.0  # seconds that a question may take: others wait for its answer
LOAD_S = 600.0  # seconds that a load may take: a GPU may compile the network first
WAIT_S = 20.0  # seconds that a lease waits for capacity while every loaded avatar is in use
RECONCILE_S = 2.0  # seconds between two calls of `reconcile`


@dataclass
class _Entry:
    """Leases and use of an avatar."""

    used: float  # when it was last observed in use
    leases: int = 0
    requests: int = 0  # that run, and that keep it
    uses: int = 0  # at the last observation
    ensuring: asyncio.Task[None] | None = None  # makes it ready; all leases that wait for it share this


class Registry:
    """Decides which avatars a server has loaded. It belongs to one event loop.

    >>> async with Registry("127.0.0.1:8001", RegistrySettings(max_models=8)) as registry:
    ...     async with registry.lease("anna"):  # loads it if necessary, and keeps it while the block runs
    ...         ...

    A gateway has its own: this is for a Triton without one. Two registries would evict what the other's callers use. So
    on one machine, only one registry of a user manages a server. A second one only loads, past the limits, and takes
    over when the first has ended. Avatars that others load or unload are observed and counted.

    Args:
        url: the server's address, as for `Client`.
        settings: limits and policies.
        key: the server's control key; by default what `find_key` finds.
        control: connection to the server, instead of one made here with `key`, `token` and `headers`.
        clock: monotonic, in seconds.
        token, headers: as for `Client`.
    """

    def __init__(
        self,
        url: str = wire.DEFAULT_URL,
        settings: RegistrySettings | None = None,
        *,
        key: str | None = None,
        control: Control | None = None,
        clock: Callable[[], float] = time.monotonic,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self.settings = settings or RegistrySettings()
        self._control = control or Control(
            url, key=key, timeout=ASK_S, load_timeout=LOAD_S, manages=True, token=token, headers=headers
        )
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._capacity = Capacity(self._control, self.settings, self._in_use, clock)
        self._failures = Failures(self._state, clock)
        self._to_preload = dict.fromkeys(self.settings.preload, logging.WARNING)  # log level of its next failure
        self._placements = 0  # on GPUs, so far
        self._loads = 0  # that run
        self._loaded = -math.inf  # when the last one ended
        self._placing = asyncio.Lock()
        self._held: AbstractContextManager[None] | None = None  # the lock of the one that may evict
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Start to manage the server. The `preload` avatars are loaded in the background."""
        if not self._manages():
            logger.warning(
                "Another process manages the avatars of the server at %s. Until it ends, nothing is unloaded here.",
                self.url,
            )
        self._tasks = [asyncio.create_task(self._periodically(work)) for work in (self._preload, self.reconcile)]

    async def close(self) -> None:
        """Close at once, also while loads are running. Avatars stay loaded; waiting leases are cancelled."""
        tasks = [*self._tasks, *(entry.ensuring for entry in self._entries.values() if entry.ensuring)]
        for task in tasks:
            task.cancel()
        self._control.close()  # this ends the calls that threads wait for
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._capacity.close()
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
        """Lease an avatar: it is loaded if necessary, and not evicted while the block runs.

        Raises:
            AvatarNotFound: the server's repository has no avatar of that name.
            LoadFailed: it cannot be loaded. A load is tried again after a back-off, or if the avatar's state changes.
            Overloaded: every loaded avatar was in use for WAIT_S seconds.
            SettingsError: the limits leave no room for it beside the server's own avatars.
        """
        entry = self._entry(avatar)
        entry.leases += 1
        try:
            # A caller that stops waiting must not cancel the load: others may wait for it.
            await asyncio.shield(self._start(avatar, entry))
            yield
        finally:
            entry.leases -= 1
            entry.used = self._clock()
            await self._capacity.notify()

    @contextmanager
    def serving(self, avatar: str) -> Iterator[None]:
        """Do not evict an avatar while the block runs. It is not loaded for that, and may be unloaded by `unload`."""
        entry = self._entry(avatar)
        entry.requests += 1
        try:
            yield
        finally:
            entry.requests -= 1
            entry.used = self._clock()

    async def load(self, avatar: str) -> None:
        """Load an avatar now, also if it failed before; reload it if its files have changed. Errors as `lease`."""
        self._failures.forget(avatar)
        async with self.lease(avatar):
            await self._load(avatar)

    async def place(self, avatar: str, gpu: int) -> None:
        """Move a loaded avatar's network to one GPU. Raises LoadFailed."""
        with self._loading():
            await self._capacity.in_thread(self._control.place, avatar, gpu)

    async def unload(self, avatar: str) -> None:
        """Unload an avatar. Raises LipsyncError if it is in use."""
        if self._entry(avatar).leases:
            raise LipsyncError(f"The avatar {avatar!r} is in use.")
        await self._capacity.unload(avatar)

    async def overview(self) -> list[AvatarOverview]:
        """Every avatar in the server's repository."""
        return await self._capacity.overview()

    @property
    def last_load(self) -> float:
        """When an avatar was last being loaded here, on the registry's clock: now, or earlier."""
        return self._clock() if self._loads else self._loaded

    def uses(self, avatar: str) -> int:
        """Answered requests of an avatar, as far as this registry observed them. `lfu` sorts by this count."""
        return self._capacity.uses(avatar)

    async def reconcile(self) -> None:
        """Reload leased avatars that the server lost, and unload idle ones."""
        for one in await self.overview():
            name, entry = one.state.id, self._entry(one.state.id)
            uses, now = self.uses(name), self._clock()
            if self._in_use(name) or uses != entry.uses:
                entry.uses, entry.used = uses, now
            if entry.leases and one.state.phase in ("not loaded", "unloaded", "failed"):
                self._start(name, entry)
            elif name in self.settings.preload and one.state.phase == "not loaded":  # the server was restarted
                self._to_preload.setdefault(name, logging.WARNING)
            if self._manages() and self._is_idle(name, now - entry.used) and self._capacity.candidates([one]):
                await self._capacity.unload(name)

    def _entry(self, avatar: str) -> _Entry:
        return self._entries.setdefault(avatar, _Entry(self._clock()))

    def _in_use(self, avatar: str) -> bool:
        entry = self._entry(avatar)
        return bool(entry.leases or entry.requests)

    def _is_idle(self, avatar: str, seconds: float) -> bool:
        limit = self.settings.idle_timeout
        return limit is not None and seconds > limit and avatar not in self.settings.preload

    def _manages(self) -> bool:
        """Whether this registry manages the server and may evict. It takes over when another process has ended."""
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
                await self._start(avatar, self._entry(avatar))  # without a lease, it does not wait for capacity
                del self._to_preload[avatar]
            except LipsyncError as error:
                logger.log(level, "Not preloaded yet: %s", error)
                self._to_preload[avatar] = logging.DEBUG

    async def _periodically(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(LipsyncError):  # the server may come back; the next lease reports it
                await work()
            await asyncio.sleep(RECONCILE_S)

    def _start(self, avatar: str, entry: _Entry) -> asyncio.Task[None]:
        """Start to make an avatar ready; one task is shared by all callers."""
        if entry.ensuring is None or entry.ensuring.done():
            entry.ensuring = asyncio.create_task(self._make_ready(avatar))
            entry.ensuring.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may have no reader
        return entry.ensuring

    async def _make_ready(self, avatar: str) -> None:
        deadline = self._clock() + WAIT_S
        await self._capacity.wait_while_unloading(avatar)
        if await self._capacity.in_thread(self._control.ready, avatar):
            self._failures.forget(avatar)
            return
        await self._failures.check(avatar)
        async with self._capacity.reserved(avatar, deadline) if self._manages() else contextlib.nullcontext():
            try:
                await self._load(avatar)
            except LoadFailed as error:
                await self._failures.record(avatar, error)
                raise
        self._failures.forget(avatar)

    @contextmanager
    def _loading(self) -> Iterator[None]:
        self._loads += 1
        try:
            yield
        finally:
            self._loads -= 1
            self._loaded = self._clock()

    async def _load(self, avatar: str) -> None:
        with self._loading():
            await self._capacity.in_thread(self._control.load, avatar)
            if self.settings.gpus:
                await self._choose_gpu(avatar)

    async def _choose_gpu(self, avatar: str) -> None:
        async with self._placing:
            gpu = self._capacity.gpu_for(avatar, await self.overview(), self._placements)
            self._placements += 1
            try:
                await self._capacity.in_thread(self._control.place, avatar, gpu)
            except LoadFailed:
                await self._capacity.in_thread(self._control.unload, avatar)
                raise

    async def _state(self, avatar: str) -> AvatarState:
        for state in await self._capacity.in_thread(self._control.avatars):
            if state.id == avatar:
                return state
        return AvatarState(avatar, False, "gone")


def _lock_file(url: str) -> Path:
    target = Endpoint(url).target
    name = re.sub(r"[^a-z0-9.-]", "_", target.lower().replace("localhost", "127.0.0.1"))
    return cache_folder() / f"registry-{name}.lock"
