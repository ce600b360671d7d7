"""The places for loaded avatars: who has one, and whom to unload to make room for one more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from lipsync_client.control.control import Control
from lipsync_client.control.states import AvatarOverview
from lipsync_client.errors import AvatarNotFound, Overloaded
from lipsync_client.registry.policy import Candidate, Counters, eviction_order
from lipsync_client.registry.settings import RegistrySettings, SettingsError

__all__ = ["Places"]


class Places:
    """What is loaded in a server, and what may be. For one event loop; the server is asked from threads.

    Args:
        control: how to reach the server.
        settings: the limits.
        in_use: whether an avatar must stay.
        clock: seconds that only grow.
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
        self._looking = asyncio.Lock()  # or an older look could come last: fewer requests, as after a new load
        self._memory_mb: dict[str, int] = {}
        self._coming: set[str] = set()  # avatars that have a place and are being loaded
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._admission = asyncio.Lock()  # one at a time looks for a place, in the order in which they came
        self._changed = asyncio.Condition()
        # Loads may take minutes each; more threads than ever load at once, so that questions need not wait for them.
        self._threads = ThreadPoolExecutor(settings.max_models + 8, thread_name_prefix="registry")

    async def close(self) -> None:
        """When the connection is closed, too: threads that wait for an answer end with it."""
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def do(self, call: Callable[..., Any], *values: Any) -> Any:
        """Call something that waits for the server."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *values)

    async def overview(self) -> list[AvatarOverview]:
        """Every avatar in the server's repository."""
        async with self._looking:
            found: list[AvatarOverview] = await self.do(self._control.overview)
            self._counters.see(found)
        self._memory_mb |= {one.state.id: one.memory_mb for one in found if one.memory_mb is not None}
        return found

    def uses(self, avatar: str) -> int:
        """Requests that the server has answered for an avatar, as far as was seen."""
        return self._counters.uses(avatar)

    @asynccontextmanager
    async def taken(self, avatar: str, deadline: float) -> AsyncIterator[None]:
        """A place for an avatar that is loaded within the block; others are unloaded if need be.

        Raises:
            AvatarNotFound: there is none of that name in the server's repository.
            SettingsError: the limits leave no room for it beside what always stays.
            Overloaded: at the deadline every loaded avatar was still in use; or at once, if nobody waits for this one.
        """
        async with self._admission:
            await self._take(avatar, deadline)
        try:
            yield
        finally:
            self._coming.discard(avatar)
            await self.tell()

    async def tell(self) -> None:
        """Something ended that others may have waited for: they look again."""
        async with self._changed:
            self._changed.notify_all()

    async def unload(self, avatar: str) -> None:
        """Unload an avatar. Nothing is awaited before the mark: who wants it afterwards waits, and loads it again."""
        task = asyncio.create_task(self.do(self._control.unload, avatar))
        self._leaving[avatar] = task
        task.add_done_callback(lambda _: self._leaving.pop(avatar, None))
        await asyncio.shield(task)

    async def left(self, avatar: str) -> None:
        """Wait while an avatar is being unloaded."""
        if avatar in self._leaving:
            await asyncio.gather(self._leaving[avatar], return_exceptions=True)

    async def _take(self, avatar: str, deadline: float) -> None:
        while True:
            overview = await self.overview()
            phases = {one.state.id: one.state.phase for one in overview}
            if avatar not in phases:
                raise AvatarNotFound(
                    f"There is no avatar {avatar!r} in the repository of the server at {self._control.url}."
                )
            loaded = {name for name in phases if phases[name] in ("loaded", "loading")} | self._coming
            leaving = {name for name in phases if phases[name] == "unloading"}
            self._check_limits(avatar, loaded & {*self._settings.keep} - {avatar})
            fits = len(loaded - {avatar}) < self._settings.max_models and self._fits_memory(avatar, loaded)
            if fits and self._fits_memory(avatar, loaded | leaving):  # what leaves has no place, but memory still
                self._coming.add(avatar)
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
        """Raises SettingsError if there is no room for an avatar even if all goes that may."""
        names = " and ".join(sorted(kept))
        if len(kept) >= self._settings.max_models:
            raise SettingsError(
                f"registry.max_models is {self._settings.max_models}, which {names} of the server's own take up: "
                f"{avatar!r} needs a higher limit."
            )
        if not self._fits_memory(avatar, kept):
            needed, taken = self._memory(avatar) / 1024, sum(map(self._memory, kept)) / 1024
            raise SettingsError(
                f"registry.max_memory_gb is {self._settings.max_memory_gb:g}, but {avatar!r} needs about {needed:.2f} "
                f"beside the {taken:.2f} of the server's own {names}: it needs a higher limit."
            )

    async def _wait_for_change(self, seconds: float) -> None:
        async with self._changed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)

    def _fits_memory(self, avatar: str, others: set[str]) -> bool:
        limit = self._settings.max_memory_gb
        needed = sum(map(self._memory, others | {avatar})) / 1024
        return limit is None or needed <= limit or others <= {avatar}

    def _memory(self, avatar: str) -> int:
        """MiB. Of an avatar that was never loaded it is not known: as much as the largest that was."""
        return self._memory_mb.get(avatar, max(self._memory_mb.values(), default=0))

    def candidates(self, overview: list[AvatarOverview]) -> list[Candidate]:
        """Avatars that are loaded and not in use."""
        found = []
        for one in overview:
            name = one.state.id
            busy = name in self._coming or name in self._leaving or self._in_use(name)
            if one.state.phase in ("loaded", "loading") and not busy and name not in self._settings.keep:
                last = one.stats.last_used.timestamp() if one.stats and one.stats.last_used else 0.0
                found.append(Candidate(name, self._counters.uses(name), last))
        return found
