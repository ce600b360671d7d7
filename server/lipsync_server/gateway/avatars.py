"""The avatars behind the gateway: their names, their state, and loading them when they are asked for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass

from tritonclient.grpc import service_pb2 as pb

from lipsync_client import wire
from lipsync_client.avatar_facts import memory_in
from lipsync_client.avatar_file.names import RESERVED
from lipsync_client.control.control import find_key
from lipsync_client.control.states import (
    AvatarOverview,
    AvatarState,
    AvatarStats,
    ModelState,
    avatar_stats,
    avatars_in,
    gpus_of,
)
from lipsync_client.errors import AvatarNotFound, ControlDenied, LipsyncError, Overloaded, ServerUnavailable, Timeout
from lipsync_client.registry.registry import Registry
from lipsync_client.registry.settings import RegistrySettings
from lipsync_server.gateway.messages import encoded
from lipsync_server.gateway.settings import GatewaySettings
from lipsync_server.gateway.upstream import Upstream
from lipsync_server.gateway.upstreams import Upstreams

__all__ = ["AvatarFigures", "Avatars"]

RECONNECTS, RECONNECT_S = 6, 0.2
LINGER_S = 3.0  # an avatar is not evicted for so long after its last request; less than an attempt of a live session
ASK_S = 10.0
KNOWN_S = 2.0  # seconds for which the list of avatars is not asked for again


@dataclass(frozen=True)
class AvatarFigures:
    """An avatar as the monolithic API shows it.

    Attributes:
        id: its name.
        loaded: it takes requests.
        gpu: number of the GPU that its network runs on; -1: the CPU, or not loaded.
        memory_mb: MiB, as measured when it was packed; 0: not known.
        stats: what it has done since it was loaded; None: nothing is known.
    """

    id: str
    loaded: bool
    gpu: int = -1
    memory_mb: int = 0
    stats: AvatarStats | None = None


@dataclass
class _Hold:
    """A lease on behalf of callers that come and go."""

    used: float  # when the last of them came
    task: asyncio.Task[None] | None = None


class Avatars:
    """The one authority over which avatars are loaded, with a registry for each upstream whose control key is known.

    Args:
        upstreams: the Tritons.
        settings: limits and policies of the registries.
        gateway: its settings.
        now: monotonic seconds.
    """

    def __init__(
        self, upstreams: Upstreams, settings: RegistrySettings, gateway: GatewaySettings, now: Callable[[], float]
    ) -> None:
        self.settings = settings
        self._upstreams = upstreams
        self._aliases = gateway.aliases
        self._on_demand = gateway.on_demand
        self._registries = {
            one.address: Registry(one.address, settings, key=key, clock=now)
            for one in upstreams.all
            if (key := find_key(one.address))
        }
        self._now = now
        self._known: dict[str, tuple[float, frozenset[str]]] = {}  # ids by upstream, and when they were asked for
        self._asking = asyncio.Lock()
        self._held: dict[tuple[str, str], _Hold] = {}
        self._opened = AsyncExitStack()

    async def open(self) -> None:
        """Begin to manage the upstreams."""
        for registry in self._registries.values():
            await self._opened.enter_async_context(registry)

    async def close(self) -> None:
        """End; avatars stay loaded."""
        await self._release(list(self._held))
        await self._opened.aclose()

    def id_of(self, model: str) -> str:
        """The avatar that a name means: an id, an alias, or an ensemble's name."""
        avatar = self._aliases.get(model, model)
        return wire.SHIPPED_AVATAR if avatar == wire.ensemble_of(wire.SHIPPED_AVATAR) else avatar

    def owner_of(self, model: str) -> str:
        """The avatar that a model is a part of, as far as its name tells."""
        return wire.SHIPPED_AVATAR if model == wire.lipsync_of(wire.SHIPPED_AVATAR) else model.removesuffix("_lipsync")

    @contextmanager
    def serving(self, model: str) -> Iterator[None]:
        """A request for a loaded avatar runs while the block does: the avatar is not evicted."""
        with ExitStack() as stack:
            for registry in self._registries.values():
                stack.enter_context(registry.serving(self.id_of(model)))
            yield

    async def ensure(self, model: str, deadline: float = math.inf) -> bool:
        """Load an avatar on an upstream that is ready, if it is not loaded there. While none is ready, wait for one.

        Returns:
            Whether it is loaded now; False where there is no such avatar, or no key to load it with.

        Raises:
            LipsyncError: it cannot be loaded.
            Refused: no upstream became ready in time.
        """
        if not self._on_demand:
            return False
        avatar = self.id_of(model)
        registry = self._registries.get((await self._upstreams.least_loaded(deadline)).address)
        if registry is None:
            return False
        for left in reversed(range(RECONNECTS)):
            try:
                return await self._load(registry, avatar)
            except ServerUnavailable as error:
                if isinstance(error, Overloaded) or not left:
                    raise
            await asyncio.sleep(RECONNECT_S)  # it was started again, and the registry's connection is not back yet
        return False

    def used(self, model: str) -> None:
        """A request for an avatar has come: it is not evicted for a while where it is known to be loaded."""
        avatar = self.id_of(model)
        if not self._on_demand or avatar in RESERVED or avatar in self.settings.keep:
            return
        if len(self._registries) == 1 and len(self._upstreams.all) == 1:
            self._hold(next(iter(self._registries.values())), avatar)
            return
        for (_, held), hold in self._held.items():
            if held == avatar:
                hold.used = self._now()

    def last_load(self, upstream: Upstream) -> float:
        """When an avatar was last being loaded on an upstream, on the clock of `now`."""
        registry = self._registries.get(upstream.address)
        return registry.last_load if registry else -math.inf

    async def let_go(self, model: str) -> None:
        """Keep an avatar no longer, because someone else unloads one of its models."""
        avatar = self.id_of(self.owner_of(model))
        await self._release([key for key in self._held if key[1] == avatar])

    async def load(self, model: str, gpu: int) -> None:
        """Load an avatar on every upstream, on one GPU if its network runs on GPUs. Raises LipsyncError."""
        avatar = self.id_of(model)
        for upstream in self._reachable():
            registry = self._registry(upstream)
            await self._check_known(registry, avatar)
            await registry.load(avatar)
            config = await self._network_config(avatar)
            if gpu >= 0 and (placed := gpus_of(config)) and placed != (gpu,):
                await registry.place(avatar, gpu)

    async def unload(self, model: str) -> None:
        """Unload an avatar from every upstream; requests in flight are completed. Raises LipsyncError."""
        avatar = self.id_of(model)
        for upstream in self._reachable():
            registry = self._registry(upstream)
            await self._check_known(registry, avatar)
            await self._release([(registry.url, avatar)])
            await registry.unload(avatar)

    async def figures(self) -> list[AvatarFigures]:
        """Every avatar that is known: those that are loaded, and with the control key the others too."""
        answer = await self._upstreams.send("ModelStatistics", encoded(pb.ModelStatisticsRequest()))
        stats = {one.name: one for one in pb.ModelStatisticsResponse.FromString(answer).model_stats}
        found = []
        for state in await self._states(list(stats)):
            ensemble, network = stats.get(wire.ensemble_of(state.id)), stats.get(wire.lipsync_of(state.id))
            if state.loaded and ensemble and network:
                found.append(await self._loaded(state.id, avatar_stats(ensemble, network)))
            else:
                found.append(AvatarFigures(state.id, False))
        return found

    async def gpu_of(self, avatar: str) -> int:
        """The GPU of a loaded avatar; -1: the CPU."""
        return (gpus_of(await self._network_config(avatar)) or (-1,))[0]

    async def _loaded(self, avatar: str, stats: AvatarStats) -> AvatarFigures:
        config = await self._network_config(avatar)
        memory = memory_in(wire.parameters_of(config)) or 0
        return AvatarFigures(avatar, True, (gpus_of(config) or (-1,))[0], memory, stats)

    async def _load(self, registry: Registry, avatar: str) -> bool:
        if avatar not in await self._ids(registry):
            return False
        async with registry.lease(avatar):
            self._hold(registry, avatar)
            return True

    def _hold(self, registry: Registry, avatar: str) -> None:
        hold = self._held.setdefault((registry.url, avatar), _Hold(self._now()))
        hold.used = self._now()
        if hold.task is None:
            hold.task = asyncio.create_task(self._lease(registry, avatar, hold))

    async def _lease(self, registry: Registry, avatar: str, hold: _Hold) -> None:
        """Keep an avatar until nobody has asked for it for a while."""
        try:
            async with registry.lease(avatar):
                while (left := hold.used + LINGER_S - self._now()) > 0:  # noqa: ASYNC110 - a time, not an event
                    await asyncio.sleep(left)
        except LipsyncError:
            pass  # who asks for it is told
        finally:
            del self._held[registry.url, avatar]

    async def _release(self, keys: list[tuple[str, str]]) -> None:
        tasks = [hold.task for key in keys if (hold := self._held.get(key)) and hold.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ids(self, registry: Registry, newer_than: float = KNOWN_S) -> frozenset[str]:
        """The avatars in an upstream's repository. They are not asked for with every unknown name."""
        async with self._asking:
            asked, ids = self._known.get(registry.url, (-math.inf, frozenset()))
            if self._now() - asked > newer_than:
                ids = frozenset(one.state.id for one in await _overview(registry))
                self._known[registry.url] = self._now(), ids
            return ids

    async def _check_known(self, registry: Registry, avatar: str) -> None:
        """Raises AvatarNotFound."""
        if avatar not in (ids := await self._ids(registry, 0.0)):
            raise AvatarNotFound(
                f"There is no avatar {avatar[:64]!r} in the repository of the server at {registry.url}: "
                f"it has {', '.join(sorted(ids)) or 'none'}."
            )

    async def _states(self, loaded: list[str]) -> list[AvatarState]:
        upstream = self._upstreams.next_ready()
        if upstream and (registry := self._registries.get(upstream.address)):
            return [one.state for one in await _overview(registry)]
        return avatars_in([ModelState(name, "READY", "") for name in loaded])

    async def _network_config(self, avatar: str) -> pb.ModelConfigResponse:
        request = encoded(pb.ModelConfigRequest(name=wire.lipsync_of(avatar)))
        return pb.ModelConfigResponse.FromString(await self._upstreams.send("ModelConfig", request)).config

    def _reachable(self) -> list[Upstream]:
        return [one for one in self._upstreams.all if one.ready] or self._upstreams.all

    def _registry(self, upstream: Upstream) -> Registry:
        try:
            return self._registries[upstream.address]
        except KeyError:
            raise ControlDenied(
                f"The gateway has no control key for the server at {upstream.address}: set LIPSYNC_CONTROL_KEY for it."
            ) from None


async def _overview(registry: Registry) -> list[AvatarOverview]:
    """As the registry's. Raises LipsyncError, also where the server takes too long."""
    try:
        return await asyncio.wait_for(registry.overview(), ASK_S)
    except asyncio.TimeoutError:
        raise Timeout(f"The server at {registry.url} did not say within {ASK_S:g} s which avatars it has.") from None
