"""The registry and a real server: many avatars, few places, many callers, and replacements while all that goes on."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import wave
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from gateway_process import Gateway, gateway
from lipsync_client import AsyncClient, AvatarNotFound, Client, Control, LiveSession, LoadFailed
from lipsync_client.avatar_file.archive import unpack_file
from lipsync_client.avatar_file.install import draft_in, installed, remove
from lipsync_client.control.control import KEY_HEADER, on_gpu
from lipsync_client.registry.registry import Registry
from lipsync_client.registry.settings import RegistrySettings
from lipsync_client.wire import encoder_of, ensemble_of, lipsync_of
from lipsync_server import home
from lipsync_server.repository.package import package_avatar
from lipsync_server.repository.source import AvatarSource
from lipsync_server.serving import environment
from small_avatar import write_small_source
from speech import real_speech

SECONDS = 200
IDS = ("reg-a", "reg-b", "reg-c")
SPEECH = np.pad(real_speech()[:32000], (0, 7240))
PIECES = [(first, 2) for first in range(0, 20, 4)]


@pytest.fixture(scope="module")
def control(server):
    with Control(server.grpc_url, key=server.control_key, timeout=SECONDS) as connected:
        yield connected


@pytest.fixture(scope="module")
def avatars(repository, control, tmp_path_factory):
    """Three avatars in the running server's repository, each with pictures of its own, none loaded."""
    folder = tmp_path_factory.mktemp("sources")
    for number, avatar in enumerate(IDS):
        source = write_small_source(folder / avatar, avatar, jpeg_quality=60 + 10 * number)
        package_avatar(AvatarSource.read(source), repository)
    yield IDS
    for avatar in IDS:
        control.unload(avatar)
        control.wait_until_gone(avatar, SECONDS)
        remove(avatar, repository)


@asynccontextmanager
async def managed(server, control, **settings) -> AsyncIterator[tuple[Registry, AsyncClient]]:
    """A registry with two places besides the avatars that other tests have loaded, and a client."""
    kept = tuple(state.id for state in control.avatars() if state.loaded and state.id not in IDS)
    limits = RegistrySettings(max_models=len(kept) + 2, keep=kept, **settings)
    async with (
        Registry(server.grpc_url, limits, key=server.control_key) as registry,
        AsyncClient(server.grpc_url, timeout=SECONDS) as client,
    ):
        yield registry, client


async def piece(client: AsyncClient, avatar: str, first: int, count: int) -> tuple[bytes, ...]:
    result = await client.infer(SPEECH, avatar=avatar, audio_end=False, first_frame=first, frame_count=count)
    assert result.frame_index == tuple(range(first, first + count))
    return result.frames


def run(scenario) -> None:
    asyncio.run(asyncio.wait_for(scenario, SECONDS))


def test_random_callers_get_right_frames_within_the_registrys_limits(server, control, avatars) -> None:
    async def caller(registry, client, serial, number: int) -> None:
        dice = random.Random(number)
        for _ in range(4):
            avatar, asked = dice.choice(IDS), dice.choice(PIECES)
            async with registry.lease(avatar):
                assert await piece(client, avatar, *asked) == serial[avatar, asked]

    async def stream(client, serial, over: asyncio.Event) -> int:
        """Of an avatar that stays loaded."""
        count = 0
        while not over.is_set():
            for asked in PIECES[:2]:
                assert await piece(client, "demo", *asked) == serial["demo", asked]
                count += 1
        return count

    async def watch(over: asyncio.Event) -> int:
        most = 0
        while not over.is_set():
            states = await asyncio.to_thread(control.avatars)
            most = max(most, sum(state.loaded for state in states))
            await asyncio.sleep(0.05)
        return most

    async def scenario() -> None:
        async with managed(server, control) as (registry, client):
            serial, over = {}, asyncio.Event()
            for avatar in ("demo", *IDS):
                async with registry.lease(avatar):
                    serial |= {(avatar, asked): await piece(client, avatar, *asked) for asked in PIECES}
            assert len(set(serial.values())) == len(serial)  # no two avatars look the same
            others = [asyncio.create_task(stream(client, serial, over)), asyncio.create_task(watch(over))]
            try:
                await asyncio.gather(*(caller(registry, client, serial, number) for number in range(6)))
            finally:
                over.set()
            streamed, most = await asyncio.gather(*others)
            assert streamed >= 2
            assert most <= registry.settings.max_models

    run(scenario())


def test_the_least_frequently_used_is_unloaded_by_tritons_own_counters(server, control, avatars) -> None:
    for avatar in IDS:  # a registry counts what it finds loaded as used as often as Triton says
        control.unload(avatar)
        control.wait_until_gone(avatar, 60)

    async def scenario() -> None:
        async with managed(server, control) as (registry, client):
            used: dict[str, int] = {}
            there: list[str] = []
            for avatar, times in (("reg-a", 3), ("reg-b", 1), ("reg-c", 5), ("reg-b", 1), ("reg-a", 1), ("reg-b", 3)):
                async with registry.lease(avatar):
                    if avatar not in there:
                        if len(there) == 2:
                            there.remove(min(there, key=lambda name: used[name]))
                        there.append(avatar)
                    loaded = {state.id for state in await asyncio.to_thread(control.avatars) if state.loaded}
                    assert loaded & set(IDS) == set(there)
                    for asked in PIECES[:times]:
                        await piece(client, avatar, *asked)
                        used[avatar] = used.get(avatar, 0) + 1

    run(scenario())


def heard_otherwise(encoder: Path, path: Path) -> Path:
    """The encoder with its first weights changed: mouths move otherwise."""
    model = onnx.load(encoder)
    first = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    changed = numpy_helper.to_array(first) * 0.5
    first.CopyFrom(numpy_helper.from_array(changed.astype(numpy_helper.to_array(first).dtype), first.name))
    onnx.save(model, path)
    return path


def install(file: Path, repository: Path, control: Control, *, broken: bool = False) -> None:
    with draft_in(repository) as draft:
        avatar = unpack_file(file, draft)
        if broken:
            (network,) = (draft / lipsync_of(avatar)).glob("*/model.onnx")
            network.write_bytes(b"not a network")
        with installed(draft, avatar, repository):
            control.load(avatar)


def test_a_replacement_mixes_and_loses_nothing_also_when_it_fails(
    server, control, avatars, repository, tmp_path
) -> None:
    """Also where the new version hears through another encoder than the old one."""
    source = write_small_source(tmp_path / "new", "reg-a", jpeg_quality=85, encoder="encoder.onnx")
    heard_otherwise(home.AVATARS / "audio_encoder/encoder.onnx", source / "encoder.onnx")
    package_avatar(AvatarSource.read(source), repository, to=tmp_path / "new.zip")
    over = asyncio.Event()

    async def stream(client, old, new) -> tuple[int, int]:
        counts = [0, 0]
        while not over.is_set():
            for asked in PIECES:
                frames = await piece(client, "reg-a", *asked)
                assert frames in (old[asked], new.get(asked, frames))
                counts[frames != old[asked]] += 1
                if frames != old[asked]:
                    assert new.setdefault(asked, frames) == frames
                else:
                    assert not counts[1]  # once new, never old
        return counts[0], counts[1]

    async def scenario() -> None:
        over.clear()
        async with managed(server, control) as (registry, client), registry.lease("reg-a"):
            old = {asked: await piece(client, "reg-a", *asked) for asked in PIECES}
            news: list[dict] = [{}, {}]
            streams = [asyncio.create_task(stream(client, old, new)) for new in news]
            try:
                with pytest.raises(LoadFailed, match=r"'reg-a'.*model\.onnx"):
                    await asyncio.to_thread(install, tmp_path / "new.zip", repository, control, broken=True)
                await asyncio.to_thread(control.load, "reg-a")  # as `lipsync avatars add` does
                assert {asked: await piece(client, "reg-a", *asked) for asked in PIECES} == old
                assert not any(news)
                await asyncio.to_thread(install, tmp_path / "new.zip", repository, control)
                new = {asked: await piece(client, "reg-a", *asked) for asked in PIECES}
                assert not set(new.values()) & set(old.values())
            finally:
                over.set()
            for (before, _), seen in zip(await asyncio.gather(*streams), news, strict=True):
                assert before and all(seen[asked] == new[asked] for asked in seen)
            states = {model.name: model.state for model in await asyncio.to_thread(control.models)}
            assert states[encoder_of("reg-a")] == "READY"

    run(scenario())


def test_a_network_is_moved_by_the_config_that_a_load_call_carries(server, control, avatars, client) -> None:
    """There is no GPU here: one for the CPU is taken as it is, one for a GPU refused, and what served goes on."""
    control.load("reg-b")
    config = client.get_model_config(lipsync_of("reg-b")).config
    on_cpu = json.loads(on_gpu(config, 0))
    assert on_cpu["instance_group"] == [{"count": 1, "gpus": [0], "kind": "KIND_GPU"}]
    on_cpu["instance_group"] = [{"count": 2, "kind": "KIND_CPU"}]
    headers = {KEY_HEADER: server.control_key}
    client.load_model(lipsync_of("reg-b"), config=json.dumps(on_cpu), headers=headers, client_timeout=SECONDS)
    (group,) = client.get_model_config(lipsync_of("reg-b")).config.instance_group
    assert group.count == 2
    control.load("reg-b")  # the files are as before, so that it stays where it was moved
    assert client.get_model_config(lipsync_of("reg-b")).config.instance_group[0].count == 2
    if environment.use_gpu("all"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(LoadFailed, match="reg-b"):
        control.place("reg-b", 0)
    assert control.ready("reg-b")


@contextmanager
def gateway_for_one(server, control, folder: Path) -> Iterator[Gateway]:
    """A gateway that may have one avatar loaded besides those of other tests. None of IDS is loaded."""
    for avatar in IDS:
        control.unload(avatar)
        control.wait_until_gone(avatar, SECONDS)
    kept = [ensemble_of(state.id) for state in control.avatars() if state.loaded]
    limits = {"load": kept, "registry": {"max_models": len(kept) + 1}}
    with gateway(folder, server.grpc_url, key=server.control_key, **limits) as front:
        front.wait()
        yield front


async def shown(address: str, avatar: str, sound: np.ndarray) -> list[bytes]:
    """The talking frames of a page that says something. It has the times of `lipsync web`."""
    async with AsyncClient(address, timeout=10) as client:
        facts = await client.avatar(avatar, timeout=SECONDS)
        async with LiveSession(client, avatar=avatar, patience=4) as session:
            await session.push(sound, 16_000)
            await session.end_speech()
            frames = []
            async for frame in session:
                if frame.speech_frame is not None:
                    frames.append(frame.jpeg)
                if frame.last:
                    break
        assert facts.id == avatar
        return frames


def test_a_page_and_a_rendering_share_one_place_and_lose_no_frame(server, control, avatars, tmp_path) -> None:
    """Each asks the gateway, which loads its avatar again when the other's is not in use."""
    sound = SPEECH[:16_000]
    speech = tmp_path / "speech.wav"
    with wave.open(str(speech), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((sound * 32_767).astype("<i2").tobytes())
    most: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            states = control.avatars()
            assert any(state.id == "demo" and state.loaded for state in states)
            most.append(sum(state.loaded for state in states if state.id in IDS))
            over.wait(0.05)

    def render(number: int) -> int:
        folder = tmp_path / f"frames-{number}"
        command = [sys.executable, "-m", "lipsync_client.cli.main", "frames", str(speech), "-o", str(folder)]
        command += ["--avatar", "reg-b", "--server", front.grpc]
        told = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert told.returncode == 0, told.stderr
        return len(list(folder.iterdir()))

    async def scenario() -> None:
        watching = asyncio.create_task(asyncio.to_thread(watch))
        try:
            for number in range(2):
                page, rendered = await asyncio.gather(
                    shown(front.grpc, "reg-a", sound), asyncio.to_thread(render, number)
                )
                assert (len(page), rendered) == (25, 25)
        finally:
            over.set()
            await watching
        assert max(most) == 1

    with gateway_for_one(server, control, tmp_path) as front:
        run(scenario())


def test_a_gateway_says_why_an_avatar_cannot_be_loaded(server, control, avatars, repository, tmp_path) -> None:
    (network,) = (repository / lipsync_of("reg-c")).glob("1/model.onnx")
    whole = network.read_bytes()
    with gateway_for_one(server, control, tmp_path) as front, Client(front.grpc, timeout=SECONDS) as client:
        with pytest.raises(AvatarNotFound, match=r"'nobody' loaded; .* `lipsync avatars load` loads one"):
            client.avatar("nobody")
        network.write_bytes(b"not a network")
        try:
            for ask in (client.avatar, lambda avatar: client.infer(SPEECH, avatar=avatar, frame_count=1)):
                with pytest.raises(LoadFailed, match=r"^The server could not load 'reg-c': .*model\.onnx"):
                    ask("reg-c")
        finally:
            network.write_bytes(whole)
