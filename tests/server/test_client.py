"""The client library against a real server."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import aclosing, closing
from pathlib import Path

import numpy as np
import pytest

from lipsync_client import (
    AsyncClient,
    AvatarNotFound,
    AvatarState,
    AvatarStats,
    Client,
    Control,
    ControlDenied,
    InvalidRequest,
    LoadFailed,
    Request,
)

SECONDS = 60  # no call may hang
FRAMES = 21
SPEECH = np.random.default_rng(1).normal(0, 0.1, 640 * FRAMES - 100).astype(np.float32)
SPEECH *= np.repeat(np.random.default_rng(2).uniform(0, 1, 7), -(-len(SPEECH) // 7))[: len(SPEECH)]  # syllables


@pytest.fixture(scope="module")
def client(server) -> Iterator[Client]:
    with Client(server.grpc_url, timeout=SECONDS) as connected:
        yield connected


@pytest.fixture(scope="module")
def control(server) -> Iterator[Control]:
    with Control(server.grpc_url, key=server.control_key, timeout=SECONDS) as connected:
        yield connected


@pytest.fixture(scope="module")
def whole(client) -> list[bytes]:
    """Every frame, from one request that carries the whole speech."""
    padded = np.pad(SPEECH, (0, client.timeline().samples_after))
    return list(client.infer(padded, audio_end=False, first_frame=0, frame_count=FRAMES).frames)


def add_avatar(repository: Path, name: str, *, broken: bool = False) -> None:
    """The shipped avatar once more, under another name: its two model folders."""
    for source, target in (("lipsync", f"{name}_lipsync"), ("lipsync_ensemble", name)):
        shutil.copytree(repository / source, repository / target)
        config = repository / target / "config.pbtxt"
        text = config.read_text().replace(f'name: "{source}"', f'name: "{target}"', 1)
        config.unlink()  # a new file: the copy may be a hard link
        config.write_text(text.replace('model_name: "lipsync"', f'model_name: "{name}_lipsync"'))
    if broken:
        network = repository / f"{name}_lipsync/1/model.onnx"
        network.unlink()
        network.write_bytes(b"not a network")


def remove_avatar(repository: Path, name: str) -> None:
    for folder in (name, f"{name}_lipsync"):
        shutil.rmtree(repository / folder)


@pytest.fixture
def zoe(server, control) -> Iterator[str]:
    """A second avatar, not loaded yet."""
    add_avatar(server.repository, "zoe")
    yield "zoe"
    control.unload("zoe")
    remove_avatar(server.repository, "zoe")


def test_facts_are_the_servers(client) -> None:
    timeline, avatar = client.timeline(), client.avatar()
    assert timeline.samples_per_frame * timeline.fps == timeline.sample_rate
    assert avatar.id == "demo"
    assert avatar.frame_width > 0 < avatar.frame_height
    assert avatar.footage_frames > 0


@pytest.mark.parametrize(("first_chunk", "chunk", "in_flight"), [(4, 25, 3), (1, 7, 4), (5, 5, 1)])
def test_rendered_equals_whole(client, whole, first_chunk: int, chunk: int, in_flight: int) -> None:
    frames = list(client.render(SPEECH, first_chunk=first_chunk, chunk=chunk, in_flight=in_flight))
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert [frame.jpeg for frame in frames] == whole
    assert all(frame.timings_ms.total >= frame.timings_ms.composite > 0 for frame in frames)


def test_async_equals_sync(server, whole) -> None:
    async def render() -> list[bytes]:
        async with AsyncClient(server.grpc_url, timeout=SECONDS) as client:
            assert (await client.timeline()).frame_count(len(SPEECH)) == FRAMES
            assert (await client.avatar()).id == "demo"
            one = await client.infer(np.pad(SPEECH, (0, 10000)), audio_end=False, first_frame=3, frame_count=1)
            assert one.frames == (whole[3],)
            return [frame.jpeg async for frame in client.render(SPEECH, chunk=6)]

    assert asyncio.run(asyncio.wait_for(render(), SECONDS)) == whole


def test_footage_start_moves_the_footage_only(client, whole) -> None:
    length = client.avatar().footage_frames
    again = client.render(SPEECH[:1280], footage_start=2 * length)
    assert [frame.jpeg for frame in again] != []
    once_round = client.infer(np.pad(SPEECH, (0, 10000)), audio_end=False, frame_count=2, footage_start=2 * length)
    if client.avatar().loop == "forward":
        assert list(once_round.frames) == whole[:2]


def test_a_stages_refusal_arrives_as_its_own_sentence(client) -> None:
    with pytest.raises(InvalidRequest, match=r"^FRAME_COUNT is 99: "):
        client.infer(SPEECH, frame_count=99)
    with pytest.raises(InvalidRequest, match=r"^AUDIO is empty"):
        client.infer(np.zeros(0, np.float32))


def test_an_unknown_avatar_is_said(client) -> None:
    with pytest.raises(AvatarNotFound, match="nobody"):
        list(client.render(SPEECH, avatar="nobody"))
    with pytest.raises(AvatarNotFound, match="nobody"):
        client.avatar("nobody")


def test_closing_early_leaves_a_working_server(server, client, whole) -> None:
    with closing(client.render(np.tile(SPEECH, 5), chunk=8)) as frames:
        next(frames)

    async def begin() -> None:
        async with AsyncClient(server.grpc_url, timeout=SECONDS) as other, aclosing(other.render(SPEECH)) as frames:
            await anext(frames)

    asyncio.run(asyncio.wait_for(begin(), SECONDS))
    assert [frame.jpeg for frame in client.render(SPEECH)] == whole


def test_controls_need_the_key(server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LIPSYNC_CONTROL_KEY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for key in (None, "wrong"):
        with Control(server.grpc_url, key=key, timeout=SECONDS) as stranger:
            assert stranger.status().ready
            assert stranger.stats("demo").failures >= 0
            for call in (
                stranger.models,
                stranger.avatars,
                lambda: stranger.load("demo"),
                lambda: stranger.unload("demo"),
            ):
                with pytest.raises(ControlDenied, match="LIPSYNC_CONTROL_KEY"):
                    call()


def test_an_avatars_life(client, control, whole, zoe: str) -> None:
    assert AvatarState("zoe", False, "") in control.avatars()
    with pytest.raises(AvatarNotFound):
        client.avatar("zoe")

    control.load("zoe")
    assert AvatarState("zoe", True, "") in control.avatars()
    before = control.stats("zoe")
    assert (before.requests, before.last_used) == (0, None)
    assert [frame.jpeg for frame in client.render(SPEECH, avatar="zoe", first_chunk=4, chunk=25)] == whole
    after = _stats_after(control, "zoe", requests=2)
    assert (after.requests, after.failures) == (2, 0)
    assert after.frames - before.frames == FRAMES
    assert after.request_ms > 0 < after.compute_ms
    assert after.last_used is not None

    control.unload("zoe")
    with pytest.raises(AvatarNotFound, match="zoe"):
        list(client.render(SPEECH, avatar="zoe"))
    with pytest.raises(AvatarNotFound, match="zoe"):
        control.stats("zoe")
    states = {model.name: model.state for model in control.models()}
    assert all(states[shared] == "READY" for shared in ("mel_preprocess", "audio_encoder_int8", "composite", "lipsync"))
    assert [frame.jpeg for frame in client.render(SPEECH)] == whole


def _stats_after(control: Control, avatar: str, *, requests: int) -> AvatarStats:
    """Triton counts a request a moment after it has answered it."""
    for _ in range(100):
        stats = control.stats(avatar)
        if stats.requests >= requests:
            break
        time.sleep(0.05)
    return stats


def test_a_broken_avatar_is_refused_with_its_reason(server, control, client, whole) -> None:
    add_avatar(server.repository, "bad", broken=True)
    try:
        with pytest.raises(LoadFailed, match=r"'bad': .*model\.onnx") as caught:
            control.load("bad")
        assert "\n" not in str(caught.value)
        (state,) = (avatar for avatar in control.avatars() if avatar.id == "bad")
        assert not state.loaded
        assert "model.onnx" in state.reason
        assert [frame.jpeg for frame in client.render(SPEECH)] == whole
    finally:
        control.unload("bad")
        remove_avatar(server.repository, "bad")


def test_an_unknown_avatar_cannot_be_loaded(control) -> None:
    for call in (control.load, control.unload):
        with pytest.raises(AvatarNotFound, match=r"'nobody'.*it has .*demo"):
            call("nobody")


def test_a_request_is_what_the_contract_says(client, whole) -> None:
    timeline = client.timeline()
    for request in timeline.cut(SPEECH, first_chunk=3, chunk=9):
        assert isinstance(request, Request)
        result = client.infer(
            request.audio,
            audio_start=request.audio_start,
            audio_end=False,
            first_frame=request.first_frame,
            frame_count=request.frame_count,
        )
        assert list(result.frames) == [whole[index] for index in result.frame_index]
