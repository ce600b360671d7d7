"""Many callers at once: every answer as if alone, failures kept to those who asked for them, overload told."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from conftest import infer
from lipsync_mel import refusals
from lipsync_server import home
from lipsync_server.repository.package import package_avatar
from lipsync_server.repository.source import AvatarSource
from speech import real_speech

SPEECH = np.pad(real_speech(), (0, 7240))


def piece(client, first: int, count: int, model: str = "lipsync_ensemble") -> list[bytes]:
    answer = infer(client, model, AUDIO=SPEECH, AUDIO_END=False, FIRST_FRAME=first, FRAME_COUNT=count)
    assert answer.FRAME_INDEX.tolist() == list(range(first, first + count))
    return answer.JPEG.tolist()


def test_200_requests_of_16_callers_are_answered_as_if_alone(client, server):
    pieces = [(first, 1 + first % 4) for first in range(0, 160, 8)]
    serial = {asked: piece(client, *asked) for asked in pieces}

    def caller(number: int) -> None:
        with grpc.InferenceServerClient(server.grpc_url) as own:
            for turn in range(200 // 16 + (number < 200 % 16)):
                asked = pieces[(7 * number + 3 * turn) % len(pieces)]
                assert piece(own, *asked) == serial[asked]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(caller, range(16)))


def test_failing_requests_harm_no_stream_beside_them(client, server):
    pieces = [(first, 4) for first in range(0, 80, 8)]
    serial = {asked: piece(client, *asked) for asked in pieces}
    over, refusals = threading.Event(), []

    def bad_caller() -> None:
        with grpc.InferenceServerClient(server.grpc_url) as own:
            while not over.is_set():
                with pytest.raises(InferenceServerException, match="INVALID_ARGUMENT") as caught:
                    infer(own, "lipsync_ensemble", AUDIO=np.full(20000, np.nan, np.float32))
                refusals.append(caught.value)

    def good_caller(_: int) -> None:
        with grpc.InferenceServerClient(server.grpc_url) as own:
            for asked in pieces:
                assert piece(own, *asked) == serial[asked]

    with ThreadPoolExecutor(5) as pool:
        bad = pool.submit(bad_caller)
        try:
            list(pool.map(good_caller, range(3)))
        finally:
            over.set()
        bad.result(timeout=60)
    assert refusals


def test_frames_of_different_requests_share_executions(client):
    def executions() -> tuple[int, int]:
        stats = client.get_inference_statistics("lipsync").model_stats[0]
        return stats.inference_count, stats.execution_count

    frames_before, runs_before = executions()
    features = np.random.default_rng(0).random((1, 32, 16, 16), np.float32)
    with ThreadPoolExecutor(8) as pool:  # past the encoder, which is the slowest stage where each request has one frame
        list(pool.map(lambda at: infer(client, "lipsync", audio_features=features, footage_position=[[at]]), range(48)))
    deadline = time.monotonic() + 10  # Triton counts a moment after it has answered
    while executions()[0] < frames_before + 48 and time.monotonic() < deadline:
        time.sleep(0.05)
    frames, runs = (after - before for after, before in zip(executions(), (frames_before, runs_before), strict=True))
    assert frames == 48
    assert runs < 48


def test_overload_is_refused_as_unavailable_and_the_rest_is_served(client, server):
    """What is on its way is bounded: of many requests at once some are answered, the others refused; it serves on."""

    def ask(_: int) -> str:
        try:
            infer(client, "lipsync_ensemble", AUDIO=SPEECH[:14000], AUDIO_END=False, FRAME_COUNT=1)
        except InferenceServerException as error:
            return f"{error.status()} {error.message()}"
        return "answered"

    with ThreadPoolExecutor(200) as pool:
        outcomes = list(pool.map(ask, range(400)))
    refused = [outcome for outcome in outcomes if outcome != "answered"]
    assert "answered" in outcomes and refused
    assert all("UNAVAILABLE" in outcome and f"[{refusals.OVERLOADED}]" in outcome for outcome in refused), set(refused)
    assert len(piece(client, 0, 4)) == 4


def stage_processes(server) -> dict[str, int]:
    """Process id of each Python-served model of the server."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            arguments = (stat.parent / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue  # it ended meanwhile
        if parent == server.pid and b"triton_python_backend_stub" in arguments[0]:
            found[Path(arguments[1].decode()).parent.parent.name] = int(stat.parent.name)
    return found


@pytest.fixture
def second_avatar(repository, tmp_path) -> str:
    """A further avatar in the running server's repository, not loaded: the demo with its footage played to and fro."""
    source = tmp_path / "second"
    shutil.copytree(home.AVATARS / "demo", source)
    text = (source / "avatar.yaml").read_text()
    (source / "avatar.yaml").write_text(
        text.replace("id: demo", "id: second").replace("loop: forward", "loop: pingpong")
    )
    package_avatar(AvatarSource.read(source), repository)
    return "second"


def test_loading_and_unloading_an_avatar_disturbs_nobody(client, server, second_avatar):
    """The shared stages' processes live on, and a stream that runs meanwhile gets every answer."""
    key = {"triton-grpc-protocol-lipsync-control": server.control_key}
    serial = {first: piece(client, first, 4) for first in range(0, 40, 4)}
    before = stage_processes(server)
    assert {"mel_preprocess", "audio_encoder_int8", "lipsync", "composite"} <= before.keys()
    over, streamed = threading.Event(), []

    def stream() -> None:
        with grpc.InferenceServerClient(server.grpc_url) as own:
            while not over.is_set():
                for first, expected in serial.items():
                    assert piece(own, first, 4) == expected
                    streamed.append(first)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream)
        try:
            for _ in range(2):
                client.load_model(second_avatar, headers=key, client_timeout=120)
                assert len(piece(client, 0, 2, second_avatar)) == 2
                for model in (second_avatar, f"{second_avatar}_lipsync"):
                    client.unload_model(model, headers=key, client_timeout=60)
        finally:
            over.set()
        running.result(timeout=120)
    after = stage_processes(server)
    assert {name: after.get(name) for name in before} == before
    assert len(streamed) >= 10
