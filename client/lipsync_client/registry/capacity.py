"""The limits of loaded avatars: how many a server may have, and which one is evicted to make room."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from lipsync_client.control.control import Control
from lipsync_client.control.states import AvatarOverview
from lipsync_client.errors import AvatarNotFound, Overloaded
from lipsync_client.registry.policy import Candidate, Counters, choose_gpu, eviction_order
from lipsync_client.registry.settings import RegistrySettings, SettingsError

__all__ = ["Capacity"]

T = TypeVar("T")


class Capacity:
    """The capacity of a server for loaded avatars. It belongs to one event loop; threads wait for the server's answers.

    Args:
        control: connection to the server.
        settings: the limits.
        in_use: whether an avatar has leases. If it has, it must not be evicted.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        control: Control,
        settings: RegistrySettings,
        in_use: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        self._control = control
        self._settings = settings
        self._in_use = in_use
        self._clock = clock
        self._counters = Counters()
        self._polling = asyncio.Lock()  # an older answer has fewer requests: after a newer one it looks like a reload
        self._memory_mb: dict[str, int] = {}
        self._loading: set[str] = set()  # avatars that hold a reservation
        self._unloading: dict[str, asyncio.Task[None]] = {}
        self._admission = asyncio.Lock()  # one reservation at a time, first come, first served
        self._changed = asyncio.Condition()
        # A load may take minutes. There are more threads than loads at once, so that other calls do not wait for them.
        self._threads = ThreadPoolExecutor(settings.max_models + 8, thread_name_prefix="registry")

    async def close(self) -> None:
        """Stop the threads. Close the connection first: this ends the calls that they wait for."""
        await asyncio.gather(*self._unloading.values(), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, call: Callable[..., T], *values: object) -> T:
        """Run a blocking call to the server in a thread, and wait for its result."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *values)

    async def overview(self) -> list[AvatarOverview]:
        """Every avatar in the server's repository."""
        async with self._polling:
            found = await self.in_thread(self._control.overview)
            self._counters.update(found)
        self._memory_mb |= {one.state.id: one.memory_mb for one in found if one.memory_mb is not None}
        return found

    def uses(self, avatar: str) -> int:
        """Requests that the server has answered for an avatar, as far as this process observed."""
        return self._counters.uses(avatar)

    @asynccontextmanager
    async def reserved(self, avatar: str, deadline: float) -> AsyncIterator[None]:
        """Reserve capacity for an avatar that is loaded within the block. Others are evicted if necessary.

        Args:
            avatar: its name.
            deadline: time of the clock, in seconds, until which a lease waits.

        Raises:
            AvatarNotFound: the server's repository has no avatar of that name.
            SettingsError: the limits leave no room for it beside the avatars that are never evicted.
            Overloaded: every loaded avatar was in use until the deadline; without a lease that waits for this avatar,
                it is raised at once.
        """
        async with self._admission:
            await self._reserve(avatar, deadline)
        try:
            yield
        finally:
            self._loading.discard(avatar)
            await self.notify()

    async def notify(self) -> None:
        """Wake up the callers that wait for capacity. Call it when a lease or a load has ended."""
        async with self._changed:
            self._changed.notify_all()

    async def unload(self, avatar: str) -> None:
        """Unload an avatar. It counts as unloading at once, so a later lease waits and then loads it again."""
        task = asyncio.create_task(self.in_thread(self._control.unload, avatar))
        self._unloading[avatar] = task
        task.add_done_callback(lambda _: self._unloading.pop(avatar, None))
        await asyncio.shield(task)

    async def wait_while_unloading(self, avatar: str) -> None:
        """Wait until no unload of this avatar is running."""
        if avatar in self._unloading:
            await asyncio.gather(self._unloading[avatar], return_exceptions=True)

    async def _reserve(self, avatar: str, deadline: float) -> None:
        while True:
            overview = await self.overview()
            phases = {one.state.id: one.state.phase for one in overview}
            if avatar not in phases:
                raise AvatarNotFound(
                    f"There is no avatar {avatar!r} in the repository of the server at {self._control.url}."
                )
            loaded = {name for name in phases if phases[name] in ("loaded", "loading")} | self._loading
            unloading = {name for name in phases if phases[name] == "unloading"}
            self._check_limits(avatar, loaded & {*self._settings.keep} - {avatar})
            fits = len(loaded - {avatar}) < self._settings.max_models and self._fits_memory(avatar, loaded)
            fits = fits and self._fits_gpu(avatar, overview, loaded)
            both = loaded | unloading  # the latter are no longer counted, but still in memory
            if fits and self._fits_memory(avatar, both) and self._fits_gpu(avatar, overview, both):
                self._loading.add(avatar)
                return
            victims = [] if fits else eviction_order(self.candidates(overview), self._settings.eviction)
            if victims:
                await self.unload(victims[0])
            elif self._clock() > deadline or not (fits or self._in_use(avatar)):
                raise Overloaded(
                    f"Every avatar that the server at {self._control.url} may have loaded is in use; try again later."
                )
            else:
                await self._wait_for_change(0.2 if fits else 1.0)

    def _check_limits(self, avatar: str, kept: set[str]) -> None:
        """Raise SettingsError if there is no room for an avatar even after every allowed eviction."""
        names = " and ".join(sorted(kept))
        if len(kept) >= self._settings.max_models:
            raise SettingsError(
                f"registry.max_models is {self._settings.max_models}, and the server's own use it up ({names}): "
                f"set a higher limit to load {avatar!r}."
            )
        if not self._fits_memory(avatar, kept):
            needed, taken = self._memory(avatar) / 1024, sum(map(self._memory, kept)) / 1024
            raise SettingsError(
                f"registry.max_memory_gb is {self._settings.max_memory_gb:g}, but {avatar!r} needs about {needed:.2f} "
                f"beside the {taken:.2f} of the server's own avatars ({names}): set a higher limit."
            )

        limit = self._settings.memory_gb_per_gpu
        if limit is not None and self._memory(avatar) > limit * 1024:
            raise SettingsError(
                f"registry.memory_gb_per_gpu is {limit:g}, but {avatar!r} needs about "
                f"{self._memory(avatar) / 1024:.2f}: set a higher limit."
            )

    def gpu_for(self, avatar: str, overview: list[AvatarOverview], turn: int) -> int:
        """The number of the GPU for an avatar, which was just loaded. `turn`: how many were placed before."""
        placed = {one.state.id: (one.gpus[0], one.memory_mb or 0) for one in overview if one.gpus}
        placed.pop(avatar, None)
        limit = self._settings.memory_gb_per_gpu or math.inf
        policy, needed = self._settings.placement, self._memory(avatar)
        return choose_gpu(self._settings.gpus, placed, policy, turn, needed=needed, limit=limit * 1024)

    def _fits_gpu(self, avatar: str, overview: list[AvatarOverview], others: set[str]) -> bool:
        """Whether a GPU has room for an avatar beside others. Those that are not placed yet take the emptiest ones."""
        limit = self._settings.memory_gb_per_gpu
        if limit is None:
            return True
        taken = dict.fromkeys(self._settings.gpus, 0)
        where = {one.state.id: [gpu for gpu in one.gpus or () if gpu in taken] for one in overview}
        for name in sorted(others - {avatar}, key=lambda name: not where.get(name)):
            for gpu in where.get(name) or [min(taken, key=taken.__getitem__)]:
                taken[gpu] += self._memory(name)
        return min(taken.values()) + self._memory(avatar) <= limit * 1024

    async def _wait_for_change(self, seconds: float) -> None:
        async with self._changed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)

    def _fits_memory(self, avatar: str, others: set[str]) -> bool:
        limit = self._settings.max_memory_gb
        needed = sum(map(self._memory, others | {avatar})) / 1024
        return limit is None or needed <= limit or others <= {avatar}

    def _memory(self, avatar: str) -> int:
        """Memory of an avatar in MiB. If it was never loaded, the largest known value is assumed."""
        return self._memory_mb.get(avatar, max(self._memory_mb.values(), default=0))

    def candidates(self, overview: list[AvatarOverview]) -> list[Candidate]:
        """The avatars that may be evicted: loaded and not in use."""
        found = []
        for one in overview:
            name = one.state.id
            busy = name in self._loading or name in self._unloading or self._in_use(name)
            if one.state.phase in ("loaded", "loading") and not busy and name not in self._settings.keep:
                last = one.stats.last_used.timestamp() if one.stats and one.stats.last_used else 0.0
                found.append(Candidate(name, self._counters.uses(name), last))
        return found
