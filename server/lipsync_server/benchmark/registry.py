"""Measures the registry on this machine: six avatars, three places, eight callers, and how soon an avatar is there.

    python -m lipsync_server.benchmark.registry                 both parts, about six minutes
    python -m lipsync_server.benchmark.registry --seconds 0     only the cold starts

Prints a table; fails if a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lipsync_client import AsyncClient, Control, LipsyncError
from lipsync_client.registry.registry import Registry
from lipsync_client.registry.settings import RegistrySettings
from lipsync_server import home
from lipsync_server.repository.build import build
from lipsync_server.repository.package import package_avatar
from lipsync_server.repository.source import AvatarSource
from lipsync_server.serving import Ports, ServerConfig, TritonServer

IDS = ("demo", "many-1", "many-2", "many-3", "many-4", "many-5")
PLACES, CALLERS = 3, 8
PIECES = [(first, 2) for first in range(0, 48, 8)]
LATE = 2  # requests that Triton may not have counted yet when it is asked right after its answers


@dataclass
class Evidence:
    """What was seen."""

    answers: Counter[str] = field(default_factory=Counter)  # by avatar
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)  # by kind
    most: int = 0  # avatars loaded at once
    unloaded: int = 0
    out_of_order: int = 0
    streamed: int = 0


class WatchedControl(Control):
    """Checks each unloading against the callers' own counts, before it is done. An avatar that has been idle for a
    moment only does not count: it may have been in use when the registry decided.
    """

    evidence: Evidence
    in_use: Counter[str]
    used: dict[str, float]  # when each was last in use
    judging = False

    def unload(self, avatar: str) -> None:
        if not self.judging:
            return super().unload(avatar)
        settled = time.monotonic() - 0.5
        idle = [name for name in IDS if not self.in_use[name] and self.used.get(name, 0) < settled]
        counts = {name: self.evidence.answers[name] for name in idle}
        least = min(
            (counts[state.id] for state in self.avatars() if state.loaded and state.id in counts), default=10**9
        )
        self.evidence.unloaded += 1
        self.evidence.out_of_order += self.evidence.answers[avatar] > least + LATE
        return super().unload(avatar)


def make_repository(folder: Path) -> Path:
    """A copy of the built repository with five further avatars, each with pictures of its own."""
    build()
    repository = folder / "model_repository"
    shutil.copytree(home.repository(), repository, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    demo = AvatarSource.read(home.AVATARS / "demo")
    for number, avatar in enumerate(IDS[1:], 1):
        package_avatar(replace(demo, id=avatar, jpeg_quality=40 + 5 * number), repository)
    return repository


def memory_mb(server: TritonServer) -> float:
    """What the server and its stages hold for themselves: proportional set sizes, without files' pages."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if server.pid in (parent, int(stat.parent.name)):
                lines = (stat.parent / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))
        except OSError:
            continue  # it ended meanwhile
    return total / 1024


async def piece(client: AsyncClient, avatar: str, asked: tuple[int, int]) -> tuple[bytes, ...]:
    speech = np.pad(home.read_sample(), (0, 7240))
    result = await client.infer(speech, avatar=avatar, audio_end=False, first_frame=asked[0], frame_count=asked[1])
    return result.frames


class Load:
    """Callers of a server's avatars, and what is seen of their answers."""

    def __init__(self, server: TritonServer) -> None:
        self.evidence, self.in_use = Evidence(), Counter[str]()
        self._server = server
        self._control = WatchedControl(server.grpc_url, key=server.control_key, timeout=120)
        self._control.evidence, self._control.in_use, self._control.used = self.evidence, self.in_use, {}
        self._client = AsyncClient(server.grpc_url, timeout=120)
        self._serial: dict[tuple[str, tuple[int, int]], tuple[bytes, ...]] = {}

    async def run(self, seconds: float) -> tuple[float, float]:
        """Eight callers at random, then again beside a stream that stays. Returns the memory before and after."""
        settings = RegistrySettings(max_models=PLACES, keep=())
        async with Registry(self._server.grpc_url, settings, control=self._control) as registry, self._client:
            await self._alone(registry)
            before = await emptied(self._server, registry)
            self._control.judging = True
            for with_stream, part in ((False, seconds), (True, seconds / 4)):
                until = time.monotonic() + part
                streams = [self._stream(until, registry)] if with_stream else []
                callers = [self._caller(number, until, registry) for number in range(CALLERS)]
                await asyncio.gather(self._count_loaded(until), *streams, *callers)
            self._control.judging = False
            return before, await emptied(self._server, registry)

    async def _alone(self, registry: Registry) -> None:
        """Ask for everything once, one after the other: what is compared with later."""
        for avatar in IDS:
            async with registry.lease(avatar):
                self.in_use[avatar] += 1
                for asked in PIECES:
                    self._serial[avatar, asked] = await piece(self._client, avatar, asked)
                    self.evidence.answers[avatar] += 1
                self.in_use[avatar] -= 1
        if len(set(self._serial.values())) != len(self._serial):
            raise RuntimeError("two avatars look the same")

    async def _caller(self, number: int, until: float, registry: Registry) -> None:
        dice = random.Random(number)
        while time.monotonic() < until:
            avatar, asked = dice.choice(IDS), dice.choice(PIECES)
            self.in_use[avatar] += 1
            try:
                async with registry.lease(avatar):
                    frames = await piece(self._client, avatar, asked)
                    self.evidence.answers[avatar] += 1
                    self.evidence.wrong += frames != self._serial[avatar, asked]
            except LipsyncError as error:
                self.evidence.errors[f"{type(error).__name__}: {error}"] += 1
            finally:
                self.in_use[avatar] -= 1
                self._control.used[avatar] = time.monotonic()

    async def _stream(self, until: float, registry: Registry) -> None:
        self.in_use["demo"] += 1
        async with registry.lease("demo"):
            while time.monotonic() < until:
                for asked in PIECES:
                    frames = await piece(self._client, "demo", asked)
                    self.evidence.wrong += frames != self._serial["demo", asked]
                    self.evidence.answers["demo"] += 1
                    self.evidence.streamed += len(frames)
        self.in_use["demo"] -= 1

    async def _count_loaded(self, until: float) -> None:
        with Control(self._server.grpc_url, key=self._server.control_key) as other:
            while time.monotonic() < until:
                states = await asyncio.to_thread(other.avatars)
                self.evidence.most = max(self.evidence.most, sum(state.loaded for state in states))
                await asyncio.sleep(0.02)


async def emptied(server: TritonServer, registry: Registry) -> float:
    """Memory once every avatar is unloaded."""
    for one in await registry.overview():
        if one.state.phase == "loaded":
            await registry.unload(one.state.id)
    while any(  # noqa: ASYNC110 (the server tells no event)
        one.state.phase not in ("not loaded", "unloaded") for one in await registry.overview()
    ):
        await asyncio.sleep(0.2)
    return memory_mb(server)


async def cold_starts(server: TritonServer, places: int) -> list[float]:
    """Seconds from asking for an avatar that is not loaded to its first frame, of each avatar."""
    settings = RegistrySettings(max_models=places, keep=())
    times = []
    async with (
        Registry(server.grpc_url, settings, key=server.control_key) as registry,
        AsyncClient(server.grpc_url, timeout=120) as client,
    ):
        async with registry.lease(IDS[0]):
            await piece(client, IDS[0], (0, 1))
        for avatar in IDS[1:]:
            started = time.perf_counter()
            async with registry.lease(avatar):
                await piece(client, avatar, (0, 1))
            times.append(time.perf_counter() - started)
            await asyncio.sleep(8)  # what was unloaded is gone by then
        await emptied(server, registry)
    return times


def main() -> None:
    def show(name: str, value: str) -> None:
        print(f"{name:40s} {value}", flush=True)

    parser = argparse.ArgumentParser(description="Measure the registry.")
    parser.add_argument("--seconds", type=float, default=180, help="of eight callers (default: %(default)g)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # its own control key and lock
        config = ServerConfig(ports=Ports(0, 0, 0), load=(), required=())
        with TritonServer(make_repository(Path(folder)), config) as server:
            for places, what in ((len(IDS), "place free"), (1, "another one unloaded first")):
                times = asyncio.run(cold_starts(server, places))
                show(f"cold start, {what}", f"{', '.join(f'{t:.2f}' for t in times)} s")
            failed = False
            if options.seconds:
                load = Load(server)
                before, after = asyncio.run(load.run(options.seconds))
                seen = load.evidence
                failed = bool(seen.wrong or seen.out_of_order or seen.most > PLACES)
                show("answers", f"{sum(seen.answers.values())}, of them wrong: {seen.wrong}")
                show("errors", "; ".join(f"{count} x {kind}" for kind, count in seen.errors.items()) or "none")
                show("avatars loaded at once", f"{seen.most} at most, {PLACES} allowed")
                show("unloaded to make room", f"{seen.unloaded}, not the least used: {seen.out_of_order}")
                show("frames of a stream beside it", f"{seen.streamed}")
                show("memory with none loaded", f"{before:.0f} MiB before, {after:.0f} MiB after")
    if failed:
        raise SystemExit("a promise is broken")


if __name__ == "__main__":
    main()
