"""What the registry decides and when, against a server that is only a dictionary. The real server has its own test."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from lipsync_client import AvatarNotFound, LipsyncError, LoadFailed, Overloaded, ServerUnavailable
from lipsync_client.control.states import AvatarOverview, AvatarState, AvatarStats
from lipsync_client.registry import registry as registry_module
from lipsync_client.registry.failures import BACK_OFF_S
from lipsync_client.registry.policy import Candidate, Counters, choose_gpu, eviction_order
from lipsync_client.registry.registry import WAIT_S, Registry
from lipsync_client.registry.settings import RegistrySettings, SettingsError

SECONDS = 30
IDS = ("anna", "ben", "cleo", "dora", "emil", "fay")


class FakeServer:
    """Stands for `Control` and the server behind it. `broken`: avatars that fail to load, with the reason."""

    url = "fake:1"

    def __init__(self, *ids: str, memory_mb: int = 500) -> None:
        self.phases = dict.fromkeys(ids, "not loaded")
        self.requests = dict.fromkeys(ids, 0)
        self.last = dict.fromkeys(ids, 0)
        self.memory_mb = dict.fromkeys(ids, memory_mb)
        self.gpus: dict[str, tuple[int, ...]] = {}
        self.broken: dict[str, str] = {}
        self.calls: list[str] = []
        self.most = self.most_mb = 0
        self.slow = threading.Event()  # loads end when it is set
        self.slow.set()
        self.shows_loading = True  # else a load shows only when it has ended
        self.closed = False
        self.lasting = 0  # looks for which unloaded avatars stay in memory
        self._leaving: dict[str, int] = {}
        self._now = 0
        self._lock = threading.RLock()

    def use(self, avatar: str, times: int = 1) -> None:
        with self._lock:
            assert self.phases[avatar] == "loaded", f"{avatar} was taken away from its user"
            self._now += 1
            self.requests[avatar] += times
            self.last[avatar] = self._now

    def ready(self, avatar: str) -> bool:
        return self.phases.get(avatar) == "loaded"

    def avatars(self) -> list[AvatarState]:
        return [one.state for one in self.overview()]

    def overview(self) -> list[AvatarOverview]:
        with self._lock:
            found = [self._one(name) for name in self.phases]
            for name, looks in list(self._leaving.items()):
                self._leaving[name] = looks - 1
                if looks == 1:
                    self.phases[name] = "unloaded"
                    del self._leaving[name]
            return found

    def _one(self, name: str) -> AvatarOverview:
        phase = self.phases[name]
        state = AvatarState(name, phase == "loaded", self.broken.get(name, "") if phase == "failed" else "", phase)
        if phase != "loaded":
            return AvatarOverview(state)
        last = datetime.fromtimestamp(self.last[name], timezone.utc) if self.last[name] else None
        stats = AvatarStats(self.requests[name], 0, 1.0, 1, 1.0, 1.0, last)
        return AvatarOverview(state, self.gpus.get(name, ()), self.memory_mb[name], stats)

    def load(self, avatar: str) -> None:
        with self._lock:
            self.calls.append(f"load {avatar}")
            if self.phases[avatar] != "loaded":
                self.phases[avatar] = "loading" if self.shows_loading else "not loaded"
                self.requests[avatar] = self.last[avatar] = 0
            held = sum(self.memory_mb[name] for name, phase in self.phases.items() if phase.endswith("ing"))
            held += sum(self.memory_mb[name] for name in self.loaded())
            self.most_mb = max(self.most_mb, held)
            self.most = max(self.most, sum(phase in ("loaded", "loading") for phase in self.phases.values()))
        assert self.slow.wait(SECONDS)
        if self.closed:
            raise ServerUnavailable("closed")
        with self._lock:
            if avatar in self.broken:
                self.phases[avatar] = "failed"
                raise LoadFailed(f"The server could not load {avatar!r}: {self.broken[avatar]}")
            self.phases[avatar] = "loaded"

    def place(self, avatar: str, gpu: int) -> None:
        self.calls.append(f"place {avatar} {gpu}")
        self.gpus[avatar] = (gpu,)

    def unload(self, avatar: str) -> None:
        with self._lock:
            self.calls.append(f"unload {avatar}")
            self.phases[avatar] = "unloading" if self.lasting else "unloaded"
            if self.lasting:
                self._leaving[avatar] = self.lasting

    def close(self) -> None:
        self.closed = True
        self.slow.set()  # calls end with the connection

    def loaded(self) -> set[str]:
        return {name for name, phase in self.phases.items() if phase == "loaded"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def run(server: FakeServer, settings: RegistrySettings, scenario: Callable[[Registry, Clock], Awaitable[None]]) -> None:
    """A scenario in an event loop, with a registry whose clock stands still unless it is moved."""

    async def all_of_it() -> None:
        clock = Clock()
        async with Registry(server.url, settings, control=server, clock=clock) as registry:  # type: ignore[arg-type]
            await scenario(registry, clock)

    asyncio.run(asyncio.wait_for(all_of_it(), SECONDS))


def limits(**values: object) -> RegistrySettings:
    return RegistrySettings(**{"keep": (), **values})  # type: ignore[arg-type]


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.01)


async def use(registry: Registry, server: FakeServer, avatar: str, times: int = 1) -> None:
    async with registry.lease(avatar):
        server.use(avatar, times)


@pytest.fixture
def reconciles_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a registry does again and again in the background, it does at once."""
    monkeypatch.setattr(registry_module, "RECONCILE_S", 0.01)


def test_concurrent_first_requests_load_once() -> None:
    server = FakeServer("anna")
    server.slow.clear()

    async def scenario(registry: Registry, clock: Clock) -> None:
        users = [asyncio.create_task(use(registry, server, "anna")) for _ in range(8)]
        while not server.calls:
            await asyncio.sleep(0)
        server.slow.set()
        await asyncio.gather(*users)
        assert server.calls == ["load anna"]
        assert server.requests["anna"] == 8

    run(server, limits(), scenario)


def test_a_caller_that_stops_waiting_does_not_cancel_the_load() -> None:
    server = FakeServer("anna")
    server.slow.clear()

    async def scenario(registry: Registry, clock: Clock) -> None:
        first, second = (asyncio.create_task(use(registry, server, "anna")) for _ in range(2))
        while not server.calls:
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        server.slow.set()
        await second
        assert server.calls == ["load anna"]

    run(server, limits(), scenario)


@pytest.mark.parametrize("policy", ["lfu", "lru"])
def test_random_callers_never_exceed_the_limit_nor_lose_their_avatar(policy: str) -> None:
    server = FakeServer(*IDS)

    async def scenario(registry: Registry, clock: Clock) -> None:
        async def caller(number: int) -> None:
            dice = random.Random(number)
            for _ in range(25):
                avatar = dice.choice(IDS)
                async with registry.lease(avatar):
                    server.use(avatar)
                    await asyncio.sleep(0.001 * dice.random())
                    server.use(avatar)  # still there

        await asyncio.gather(*map(caller, range(8)))
        assert server.most == 3
        assert sum(map(registry.uses, IDS)) >= 350  # what was counted between the last look and an unloading is lost

    run(server, limits(max_models=3, eviction=policy), scenario)


def test_the_least_frequently_used_is_evicted_first_over_all_loads() -> None:
    server = FakeServer(*IDS)

    async def scenario(registry: Registry, clock: Clock) -> None:
        for avatar, times in (("anna", 5), ("ben", 2), ("cleo", 3)):
            await use(registry, server, avatar, times)
        await use(registry, server, "dora", 1)
        assert server.loaded() == {"anna", "cleo", "dora"}  # ben had 2
        await use(registry, server, "ben", 2)
        assert server.loaded() == {"anna", "cleo", "ben"}  # dora had 1, and ben has 4 now
        assert registry.uses("ben") in (2, 4)
        await use(registry, server, "dora", 1)
        assert server.loaded() == {"anna", "dora", "ben"}  # cleo had 3

    run(server, limits(max_models=3), scenario)


def test_the_least_recently_used_is_evicted_first_with_lru() -> None:
    server = FakeServer(*IDS)

    async def scenario(registry: Registry, clock: Clock) -> None:
        for avatar, times in (("anna", 9), ("ben", 2), ("cleo", 3), ("dora", 1)):
            await use(registry, server, avatar, times)
        assert server.loaded() == {"ben", "cleo", "dora"}

    run(server, limits(max_models=3, eviction="lru"), scenario)


def test_an_avatar_in_use_is_not_evicted_and_a_full_server_says_so() -> None:
    server = FakeServer(*IDS)

    async def scenario(registry: Registry, clock: Clock) -> None:
        async with registry.lease("anna"), registry.lease("ben"):
            with pytest.raises(LipsyncError, match="'anna' is in use"):
                await registry.unload("anna")
            late = asyncio.create_task(use(registry, server, "cleo"))
            while "load ben" not in server.calls:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            clock.now += WAIT_S + 1
            with pytest.raises(Overloaded, match="is in use; try again later"):
                await late
            assert server.loaded() == {"anna", "ben"}
        await use(registry, server, "cleo")

    run(server, limits(max_models=2), scenario)


def test_freed_capacity_goes_to_a_waiting_lease() -> None:
    server = FakeServer(*IDS)

    async def scenario(registry: Registry, clock: Clock) -> None:
        async with registry.lease("anna"):
            waiting = asyncio.create_task(use(registry, server, "ben"))
            await asyncio.sleep(0.01)
            assert not waiting.done()
        await waiting
        assert server.calls == ["load anna", "unload anna", "load ben"]

    run(server, limits(max_models=1), scenario)


@pytest.mark.parametrize(
    ("allowed", "says"),
    [
        ({"max_models": 1}, r"registry\.max_models is 1, .*\(fay\): set a higher limit to load 'anna'"),
        (
            {"max_memory_gb": 1.5},
            r"registry\.max_memory_gb is 1\.5, but 'anna' needs about 1\.00 beside the 1\.00 .*fay",
        ),
    ],
)
def test_a_limit_that_leaves_no_room_is_named_at_once(allowed: dict[str, object], says: str) -> None:
    server = FakeServer(*IDS, memory_mb=1024)
    server.phases |= {"fay": "loaded", "ben": "loaded"}

    async def scenario(registry: Registry, clock: Clock) -> None:
        with pytest.raises(SettingsError, match=says):
            await use(registry, server, "anna")
        assert server.calls == []  # ben need not go for that
        await use(registry, server, "fay")

    run(server, limits(keep=("fay",), **allowed), scenario)


def test_a_preload_without_room_delays_no_lease(caplog: pytest.LogCaptureFixture, reconciles_often: None) -> None:
    server = FakeServer(*IDS)
    server.broken["anna"] = "model.onnx is broken"

    async def scenario(registry: Registry, clock: Clock) -> None:
        async with registry.lease("cleo"):
            async with registry.lease("ben"):
                while "broken" not in caplog.text:
                    await asyncio.sleep(0.01)
                caplog.set_level(logging.DEBUG)
                del server.broken["anna"]
                server.phases["anna"] = "not loaded"
                while "Every avatar" not in caplog.text:  # though the clock stands still
                    await asyncio.sleep(0.01)
                late = asyncio.create_task(use(registry, server, "dora"))
                await asyncio.sleep(0.05)
            await late

    run(server, limits(max_models=2, preload=("anna",)), scenario)


def test_closing_waits_for_no_load_and_begins_none() -> None:
    server = FakeServer(*IDS)
    server.slow.clear()

    async def scenario(registry: Registry, clock: Clock) -> None:
        users = [asyncio.create_task(use(registry, server, avatar)) for avatar in ("anna", "ben")]
        await until(lambda: server.calls == ["load anna"])  # and ben waits for its place
        await registry.close()
        await asyncio.wait(users)
        assert all(user.cancelled() for user in users)
        assert server.calls == ["load anna"]

    run(server, limits(max_models=1), scenario)


def test_a_load_that_has_only_begun_counts_already() -> None:
    server = FakeServer(*IDS)
    server.shows_loading = False
    server.slow.clear()

    async def scenario(registry: Registry, clock: Clock) -> None:
        users = [asyncio.create_task(use(registry, server, avatar)) for avatar in ("anna", "ben")]
        while not server.calls:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert len(server.calls) == 1
        server.slow.set()
        await asyncio.gather(*users)

    run(server, limits(max_models=1), scenario)


def test_a_failed_load_gives_the_reason_and_is_retried_after_back_off() -> None:
    server = FakeServer("anna")
    server.broken["anna"] = "model.onnx is broken"
    tries = lambda: server.calls.count("load anna")  # noqa: E731

    async def scenario(registry: Registry, clock: Clock) -> None:
        for _ in range(5):
            with pytest.raises(LoadFailed, match=r"model\.onnx is broken"):
                await use(registry, server, "anna")
        assert tries() == 1
        clock.now += BACK_OFF_S[0] + 1
        for _ in range(2):
            with pytest.raises(LoadFailed):
                await use(registry, server, "anna")
        assert tries() == 2
        clock.now += BACK_OFF_S[0] + 1  # the wait has doubled
        with pytest.raises(LoadFailed, match="not tried again for 4 s"):
            await use(registry, server, "anna")
        assert tries() == 2
        with pytest.raises(LoadFailed):
            await registry.load("anna")  # asked for
        assert tries() == 3
        del server.broken["anna"]
        server.phases["anna"] = "not loaded"  # somebody put it into the repository anew
        await use(registry, server, "anna")
        assert tries() == 4

    run(server, limits(), scenario)


def test_an_unknown_avatar_is_no_avatar() -> None:
    async def scenario(registry: Registry, clock: Clock) -> None:
        for bad in ("nobody", "../anna", ""):
            with pytest.raises(AvatarNotFound):
                await registry.lease(bad).__aenter__()

    run(FakeServer("anna"), limits(), scenario)


def test_idle_avatars_are_unloaded_except_preloaded_and_kept_ones() -> None:
    server = FakeServer(*IDS)
    server.phases["fay"] = "loaded"  # by the server

    async def scenario(registry: Registry, clock: Clock) -> None:
        await until(lambda: server.loaded() == {"anna", "fay"})
        await use(registry, server, "ben")
        async with registry.lease("cleo"):
            await registry.reconcile()
            clock.now += 61
            server.use("ben")  # by somebody else
            await registry.reconcile()
            assert server.loaded() == {"anna", "ben", "cleo", "fay"}
            clock.now += 61
            await registry.reconcile()
            assert server.loaded() == {"anna", "cleo", "fay"}
        await registry.reconcile()
        clock.now += 61
        await registry.reconcile()
        assert server.loaded() == {"anna", "fay"}

    run(server, limits(preload=("anna",), keep=("fay",), idle_timeout=60), scenario)


def test_what_cannot_be_preloaded_is_said_and_tried_again(
    caplog: pytest.LogCaptureFixture, reconciles_often: None
) -> None:
    server = FakeServer(*IDS)
    server.broken["anna"] = "model.onnx is broken"

    async def scenario(registry: Registry, clock: Clock) -> None:
        await until(lambda: server.loaded() == {"ben"})
        assert caplog.text.count("model.onnx is broken") == 1
        del server.broken["anna"]
        server.phases["anna"] = "not loaded"
        await until(lambda: server.loaded() == {"anna", "ben"})

    run(server, limits(preload=("anna", "ben")), scenario)


def test_nobody_waits_for_a_preload() -> None:
    server = FakeServer(*IDS)
    server.phases["ben"] = "loaded"
    server.slow.clear()

    async def scenario(registry: Registry, clock: Clock) -> None:
        await until(lambda: server.phases["anna"] == "loading")
        await use(registry, server, "ben")
        server.slow.set()

    run(server, limits(preload=("anna",)), scenario)


def test_a_lost_preload_is_loaded_again_and_an_unloaded_one_is_not(
    reconciles_often: None,
) -> None:
    server = FakeServer(*IDS)

    async def scenario(registry: Registry, clock: Clock) -> None:
        await until(lambda: server.loaded() == {"anna", "ben"})
        await registry.unload("ben")
        server.phases["anna"] = "not loaded"  # as after a new start
        for _ in range(2):
            await until(lambda: server.loaded() == {"anna"})
            await registry.reconcile()

    run(server, limits(preload=("anna", "ben")), scenario)


def test_memory_is_a_limit_and_counts_until_an_unload_has_ended() -> None:
    server = FakeServer(*IDS, memory_mb=1024)
    server.lasting = 3

    async def scenario(registry: Registry, clock: Clock) -> None:
        for avatar in ("anna", "ben", "cleo"):
            await use(registry, server, avatar)
        assert server.loaded() == {"ben", "cleo"}
        assert server.calls == ["load anna", "load ben", "unload anna", "load cleo"]  # one was enough
        assert server.most_mb == 2048

    run(server, limits(max_memory_gb=2.5), scenario)


def test_an_avatar_lost_while_in_use_is_loaded_again() -> None:
    server = FakeServer("anna")

    async def scenario(registry: Registry, clock: Clock) -> None:
        async with registry.lease("anna"):
            server.phases["anna"] = "not loaded"  # as after a new start
            await registry.reconcile()
            while "anna" not in server.loaded():
                await asyncio.sleep(0)

    run(server, limits(), scenario)


def test_avatars_that_others_loaded_count_and_may_be_evicted() -> None:
    server = FakeServer(*IDS)
    server.phases |= {"anna": "loaded", "ben": "loaded"}

    async def scenario(registry: Registry, clock: Clock) -> None:
        await use(registry, server, "cleo")
        assert server.loaded() == {"cleo"}

    run(server, limits(max_models=1), scenario)


def test_each_avatar_gets_one_gpu() -> None:
    server = FakeServer(*IDS)

    async def scenario(registry: Registry, clock: Clock) -> None:
        for avatar in IDS[:3]:
            await use(registry, server, avatar)
        assert [call for call in server.calls if call.startswith("place")] == [
            "place anna 0",
            "place ben 1",
            "place cleo 0",
        ]

    run(server, limits(gpus=(0, 1)), scenario)


@pytest.mark.parametrize("placement", ["round_robin", "least_loaded"])
def test_no_gpu_holds_more_than_its_limit_and_others_are_evicted(placement: str) -> None:
    """Two GPUs with room for two avatars each; the fifth needs another's place."""
    names = [f"avatar{number}" for number in range(5)]
    server = FakeServer(*names)
    server.memory_mb = dict.fromkeys(names, 500)

    async def scenario(registry: Registry, clock: Clock) -> None:
        for turn, name in enumerate(names):
            await use(registry, server, name)
            clock.now += 1
            taken = [sum(500 for one in server.loaded() if server.gpus[one] == (gpu,)) for gpu in (0, 1)]
            assert max(taken) <= 1024 and sum(taken) == 500 * min(turn + 1, 4)

    run(server, limits(gpus=(0, 1), memory_gb_per_gpu=1, placement=placement), scenario)


def test_an_avatar_that_fits_on_no_gpu_is_refused_with_the_limit() -> None:
    server = FakeServer("anna")
    server.memory_mb = {"anna": 2_048}

    async def scenario(registry: Registry, clock: Clock) -> None:
        await use(registry, server, "anna")  # its memory is not known before
        await registry.unload("anna")
        with pytest.raises(SettingsError, match=r"memory_gb_per_gpu is 1, but 'anna' needs about 2\.00"):
            await use(registry, server, "anna")

    run(server, limits(gpus=(0,), memory_gb_per_gpu=1), scenario)
    with pytest.raises(SettingsError, match=r"registry\.gpus, which is empty"):
        RegistrySettings.from_dict({"memory_gb_per_gpu": 1})


def test_the_least_loaded_gpu_has_least_memory_then_fewest_avatars() -> None:
    placed = {"anna": (0, 500), "ben": (1, 200), "cleo": (1, 200)}
    assert choose_gpu((0, 1), placed, "least_loaded", 0) == 1
    assert choose_gpu((0, 1), placed | {"dora": (1, 100)}, "least_loaded", 0) == 0
    assert choose_gpu((0, 1, 2), placed, "least_loaded", 0) == 2
    assert [choose_gpu((3, 5), {}, "round_robin", turn) for turn in range(3)] == [3, 5, 3]
    assert choose_gpu((0, 1), placed, "round_robin", 0, needed=100, limit=550) == 1


def test_ties_are_broken_by_time_then_by_name() -> None:
    some = [Candidate("c", 1, 5.0), Candidate("b", 1, 4.0), Candidate("a", 2, 0.0), Candidate("d", 1, 4.0)]
    assert eviction_order(some, "lfu") == ["b", "d", "c", "a"]
    assert eviction_order(some, "lru") == ["a", "b", "d", "c"]


def test_counters_outlive_those_of_triton() -> None:
    server, counters = FakeServer("anna"), Counters()
    for requests, loaded in ((0, True), (5, True), (0, False), (2, True), (1, True)):
        server.phases["anna"], server.requests["anna"] = "loaded" if loaded else "not loaded", requests
        counters.update(server.overview())
    assert counters.uses("anna") == 5 + 2 + 1


def test_a_second_registry_evicts_nothing_until_the_first_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer(*IDS)
    second = Registry(server.url, limits(max_models=1), control=server)  # type: ignore[arg-type]

    async def scenario(registry: Registry, clock: Clock) -> None:
        await use(registry, server, "anna")
        await second.open()
        assert "Another process manages the avatars of the server at fake:1" in caplog.text
        await use(second, server, "ben")
        assert server.calls == ["load anna", "load ben"]  # past its limit
        await registry.close()
        server.closed = False  # the second has a connection of its own
        await use(second, server, "cleo")
        assert server.loaded() == {"cleo"}
        await second.close()

    run(server, limits(max_models=1), scenario)


def test_a_load_that_runs_is_known() -> None:
    server = FakeServer(*IDS)
    server.slow.clear()

    async def scenario(registry: Registry, clock: Clock) -> None:
        assert registry.last_load < clock()
        loading = asyncio.create_task(use(registry, server, "anna"))
        await until(lambda: server.calls == ["load anna"])
        clock.now += 60
        assert registry.last_load == clock()
        server.slow.set()
        await loading
        clock.now += 60
        assert registry.last_load == clock() - 60

    run(server, limits(), scenario)


def test_a_request_that_runs_keeps_its_avatar() -> None:
    server = FakeServer(*IDS)

    async def scenario(registry: Registry, clock: Clock) -> None:
        await use(registry, server, "anna")
        await use(registry, server, "ben", 5)
        with registry.serving("anna"):  # the one that is used least
            await use(registry, server, "cleo", 9)
            assert server.loaded() == {"anna", "cleo"}
        await use(registry, server, "ben")
        assert server.loaded() == {"ben", "cleo"}
        with registry.serving("ben"):
            await registry.unload("ben")  # which completes what runs
        assert server.loaded() == {"cleo"}

    run(server, limits(max_models=2), scenario)


BAD = {
    "max_models": (0, True, 2.5, "many", None),
    "max_memory_gb": (0, -1, "8 GB"),
    "eviction": ("fifo", None, 1),
    "idle_timeout": (0, "never"),
    "preload": ("anna", ["../anna"], [3]),
    "gpus": ("all", [-1], [True]),
    "placement": ("random",),
    "colour": ("red",),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_a_wrong_setting_is_named(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"registry\.{key}.*allowed"):
        RegistrySettings.from_dict({key: value})


def test_settings_come_from_the_servers_file(tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(
        "load: [lipsync_ensemble, lipsync_visual_ensemble, anna]\nregistry: {max_models: 3, preload: [ben]}\n"
    )
    expected = replace(RegistrySettings(), max_models=3, preload=("ben",), keep=("demo", "anna"))
    assert RegistrySettings.from_yaml(path) == expected
    path.write_text("registry: {max_models: 1, preload: [ben]}\n")
    with pytest.raises(ValueError, match="max_models is 1, but ben, demo are to be loaded"):
        RegistrySettings.from_yaml(path)
    path.write_text("")
    assert RegistrySettings.from_yaml(path) == RegistrySettings()
