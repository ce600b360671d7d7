"""What a caller of the inner models, a cancelled request, a dead stage or a cut file may do to the others: nothing.

A server of its own, because its stages are stopped and killed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from conftest import built_repository, eventually, infer
from lipsync_composite.assets import key_name, write_assets
from lipsync_mel import permit_file, timeline
from lipsync_mel.permit_file import PERMITS
from lipsync_server.serving import Ports, ServerConfig, TritonServer, leftovers
from speech import real_speech

SPEECH = np.pad(real_speech(), (0, 7240))
ENSEMBLE = [
    "mel_windows",
    "window_mask",
    "footage_position",
    "FRAME_INDEX",
    "clock",
]  # what its first step is asked for
BOTH = ["footage_position", "visual_position", "clock"]
SIZE = {"width": 128, "height": 96, "frames": 4}  # of a further avatar's footage
MOUTH = np.zeros((1, 320, 320, 3), np.uint8)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    return built_repository(tmp_path_factory.mktemp("protected"))


@pytest.fixture(scope="module")
def server(repository) -> Iterator[TritonServer]:
    with TritonServer(repository, ServerConfig(ports=Ports(0, 0, 0))) as running:
        yield running


@pytest.fixture(scope="module")
def client(server) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(server.grpc_url) as connected:
        yield connected


def piece(client, frames: int = 5) -> list[bytes]:
    return infer(client, "lipsync_ensemble", AUDIO=SPEECH, AUDIO_END=False, FRAME_COUNT=frames).JPEG.tolist()


@pytest.fixture(scope="module")
def whole(client) -> list[bytes]:
    return piece(client)


def refusal(client, model: str, **inputs: Any) -> str:
    with pytest.raises(InferenceServerException) as caught:
        infer(client, model, **inputs)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT", caught.value
    return caught.value.message()


def windows(rows: int, mask_rows: int | None = None) -> dict[str, np.ndarray]:
    mask = np.ones((rows if mask_rows is None else mask_rows, 1), np.float32)
    return {"mel_windows": np.zeros((rows, 1, 80, 16), np.float32), "window_mask": mask}


def frames(count: int) -> dict[str, np.ndarray]:
    return {"footage_position": np.zeros((count, 1), np.int64)}


# Rows


def test_rows_that_do_not_match_are_refused_and_the_same_shape_is_served_on(client, whole):
    rows = len(whole) + timeline.ROWS_PER_FRAME - 1  # as the stream beside it has them
    for mel, mask in ((rows - 1, rows), (rows, rows - 1), (rows, 1)):
        assert f"window_mask has {mask} rows and mel_windows {mel}" in refusal(
            client, "audio_encoder_int8", **windows(mel, mask)
        )
        assert piece(client) == whole


MOST, LEAST = timeline.MAX_FRAMES + timeline.ROWS_PER_FRAME - 1, timeline.ROWS_PER_FRAME
FEATURES = np.zeros((33, 32, 16, 16), np.float32)
TOO_MUCH = {
    "encoder": (
        "audio_encoder_int8",
        windows(MOST + 1),
        f"mel_windows has {MOST + 1} rows: from {LEAST} to {MOST} are",
    ),
    "encoder, much": ("audio_encoder_int8", windows(20_000), "mel_windows has 20000 rows"),
    "encoder, too little for a frame": ("audio_encoder_int8", windows(LEAST - 1), f"mel_windows has {LEAST - 1} rows"),
    "encoder, nothing": ("audio_encoder_int8", windows(0), "mel_windows has 0 rows"),
    "U-Net": ("lipsync", {"audio_features": FEATURES, **frames(33)}, "batch-size must be <= 32"),
    "U-Net, uneven": ("lipsync", {"audio_features": FEATURES[:2], **frames(1)}, "batch size does not match"),
    "composite": ("composite", {"avatar_key": [[1]] * 33, **frames(33)}, "footage_position has 33 frames"),
    "composite, mouths": (
        "composite",
        {"mouth": MOUTH.repeat(40, 0), "avatar_key": [[1]], **frames(1)},
        "mouth has 40",
    ),
    "composite, numbers": ("composite", {"avatar_key": [[1]], "frame_index": np.arange(10**6), **frames(1)}, "1000000"),
    "speech": ("mel_preprocess", {"AUDIO": np.zeros(timeline.MAX_SAMPLES + 1, np.float32)}, "at most 28800000"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_more_than_a_request_may_have_is_refused_by_every_stage(client, whole, case):
    model, inputs, sentence = TOO_MUCH[case]
    outputs = {"outputs": ENSEMBLE} if model == "mel_preprocess" else {}
    assert sentence in refusal(client, model, **outputs, **inputs)
    assert piece(client) == whole


def test_every_number_of_frames_is_within_the_encoders_rows(client):
    for count in (1, timeline.MAX_FRAMES):
        assert len(piece(client, count)) == count


# Permits


@pytest.fixture(scope="module")
def file(server) -> Path:
    (name,) = [name for pid, name in leftovers.processes(leftovers.SERVER) if pid == server.pid]
    return leftovers.SHARED_MEMORY / f"{name}in_flight"


def held(file: Path) -> int:
    return int(np.count_nonzero(np.fromfile(file, np.int64)[PERMITS:]))


def serves_at_once(client, file: Path, whole: list[bytes]) -> None:
    """With the permits held by lost requests: the next two requests are served, and then no permit is held."""
    assert held(file) >= 60  # one or the other may have come through
    assert piece(client) == whole
    assert piece(client) == whole
    assert held(file) == 0


def test_direct_calls_of_the_first_stage_lock_nobody_out(client, file, whole):
    for _ in range(64):
        infer(client, "mel_preprocess", ENSEMBLE, AUDIO=SPEECH, AUDIO_END=False, FRAME_COUNT=1)
    serves_at_once(client, file, whole)


def test_a_caller_who_asks_for_all_that_the_first_stage_has_takes_no_permit(client, file, whole):
    pictures = np.zeros((1, 6, 320, 320), np.float32)
    for outputs in (BOTH, ["mel_windows", "window_mask"]):
        infer(client, "mel_preprocess", outputs, AUDIO=SPEECH, AUDIO_END=False, FRAME_COUNT=1, VISUAL_FRAMES=pictures)
        assert held(file) == 0


def test_a_request_that_the_first_stage_refuses_holds_no_permit(client, file, whole):
    refusal(client, "lipsync_ensemble", AUDIO=SPEECH, FRAME_COUNT=33)
    assert held(file) == 0


def test_a_made_up_clock_changes_nothing(client, server, file, whole):
    key = infer(client, "lipsync", audio_features=FEATURES[:1], **frames(1)).avatar_key
    before = file.read_bytes()
    for clock in ([0, 0, PERMITS], [0, 0, 0], [1, 1, PERMITS], [-1, -1, 10**9], [2**63 - 1, -(2**63), 2**63 - 1]):
        answer = infer(client, "composite", avatar_key=key, clock=np.array(clock, np.int64), **frames(1))
        assert len(answer.JPEG) == 1
    assert file.read_bytes() == before


class Held:
    """64 requests of one frame each, which have their permits and wait for the network, whose process is stopped."""

    def __init__(self, client, file: Path, network: int) -> None:
        self.errors: list[InferenceServerException | None] = []
        self._done, self._network = threading.Semaphore(0), network
        os.kill(network, signal.SIGSTOP)
        audio = grpc.InferInput("AUDIO", [14000], "FP32").set_data_from_numpy(SPEECH[:14000])
        count = grpc.InferInput("FRAME_COUNT", [1], "INT32").set_data_from_numpy(np.ones(1, np.int32))
        end = grpc.InferInput("AUDIO_END", [1], "BOOL").set_data_from_numpy(np.zeros(1, bool))
        self.calls = [client.async_infer("lipsync_ensemble", [audio, count, end], self._answer) for _ in range(64)]
        eventually(lambda: held(file) == 64)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *exception: object) -> None:
        self.go_on()

    def go_on(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._network, signal.SIGCONT)

    def _answer(self, result: object, error: InferenceServerException | None) -> None:
        self.errors.append(error)
        self._done.release()

    def all_failed(self) -> bool:
        assert all(self._done.acquire(timeout=60) for _ in self.calls)
        return None not in self.errors


def lipsync_process(server: TritonServer) -> int:
    for pid, _ in leftovers.processes(leftovers.STAGE):
        arguments = Path(f"/proc/{pid}/cmdline").read_text()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if parent == server.pid and "\0lipsync_0_0\0" in arguments:
            return pid
    raise AssertionError("lipsync has no process")


def test_cancelled_requests_lock_nobody_out(client, server, file, whole):
    with Held(client, file, lipsync_process(server)) as waiting:
        for call in waiting.calls:
            call.cancel()
        assert waiting.all_failed()
    serves_at_once(client, file, whole)


def test_requests_of_a_stage_that_died_lock_nobody_out_when_it_is_back(client, server, file, whole):
    network = lipsync_process(server)
    with Held(client, file, network) as waiting:
        os.kill(network, signal.SIGKILL)
        assert waiting.all_failed()
    key = {"triton-grpc-protocol-lipsync-control": server.control_key}
    client.unload_model("lipsync", headers=key, client_timeout=60)
    eventually(lambda: not client.is_model_ready("lipsync"))
    client.load_model("lipsync_ensemble", headers=key, client_timeout=120)
    serves_at_once(client, file, whole)


def test_overload_keeps_to_the_bound(client, server, file, whole):
    """One request above the permits is let in, no more."""
    with Held(client, file, lipsync_process(server)) as waiting, ThreadPoolExecutor(1) as pool:
        extra = pool.submit(piece, client, 1)
        try:
            eventually(lambda: np.fromfile(file, np.int64)[permit_file.EXTRA])
            with pytest.raises(InferenceServerException, match=r"\[overloaded\] 64 requests are in flight"):
                piece(client, 1)
        finally:
            waiting.go_on()
        extra.result(timeout=60)
    eventually(lambda: held(file) == 0)
    assert piece(client) == whole


# Files


keys = itertools.count(1234567)


@pytest.fixture
def further(repository) -> Iterator[tuple[Path, int]]:
    """A further avatar's footage, as composite finds it: its folder and key."""
    key = next(keys)
    folder = repository / "further_lipsync" / "avatar" / key_name(key)
    size = (SIZE["frames"], SIZE["height"], SIZE["width"], 3)
    pictures = np.random.default_rng(3).integers(0, 256, size, dtype=np.uint8)
    settings: dict[str, Any] = {"loop": "forward", "blend": "soft", "mask": [5, 5, 310, 305], "quality": 75}
    write_assets(folder, pictures, [[10, 10, 64]] * len(pictures), avatar_id="further", **settings)
    yield folder, key
    shutil.rmtree(folder.parent.parent)


def pasted(client, key: int, position: int) -> bytes:
    return infer(client, "composite", mouth=MOUTH, avatar_key=[[key]], footage_position=[[position]]).JPEG[0]


@pytest.mark.parametrize("name", ["footage.bin", "pixels.bin"])
def test_a_file_that_is_cut_while_it_is_served_fails_its_own_frames_only(client, further, whole, name):
    folder, key = further
    good = [pasted(client, key, position) for position in range(SIZE["frames"])]
    content = (folder / name).read_bytes()
    os.truncate(folder / name, len(content) - 1)
    assert pasted(client, key, 0) == good[0]  # it is there still
    with pytest.raises(InferenceServerException, match=rf"INTERNAL.*{name} is broken"):
        pasted(client, key, SIZE["frames"] - 1)
    assert piece(client) == whole
    with (folder / name).open("r+b") as file:
        file.write(content)
    assert [pasted(client, key, position) for position in range(SIZE["frames"])] == good


@pytest.mark.parametrize("name", ["footage.bin", "pixels.bin"])
def test_a_frame_that_is_not_as_packed_is_refused_and_the_others_served(client, further, whole, name):
    folder, key = further
    content = bytearray((folder / name).read_bytes())
    content[-5] ^= 1  # in the last frame
    (folder / name).write_bytes(content)
    assert pasted(client, key, 0)
    with pytest.raises(InferenceServerException, match=rf"INTERNAL.*{name} is broken \(frame 3's checksum differs\)"):
        pasted(client, key, SIZE["frames"] - 1)
    assert piece(client) == whole


# Any launcher


def test_a_server_that_our_launcher_did_not_name_has_a_permit_file_of_its_own(repository, monkeypatch):
    """As under NVIDIA's image: the stages find the file by their server's process."""
    from lipsync_server.serving import server as serving

    def plain(*args: Any, **options: Any) -> list[str]:
        arguments = original(*args, **options)
        return [argument for argument in arguments if not argument.startswith("--backend-config")]

    original = serving.server_arguments
    monkeypatch.setattr(serving, "server_arguments", plain)
    monkeypatch.setattr(serving, "IDLE_BEFORE_KILL", 60)  # its stages have no name to be found by, either
    found = []
    with TritonServer(repository, ServerConfig(ports=Ports(0, 0, 0))) as server:
        with grpc.InferenceServerClient(server.grpc_url) as own:
            assert piece(own, 1)
        found = list(permit_file.SHARED_MEMORY.glob(f"lipsync_*_{server.pid}_*_0_in_flight"))
        assert len(found) == 1
        values = np.fromfile(found[0], np.int64)
        assert values[permit_file.LAST].any()  # the last stage has found it, too
        assert held(found[0]) == 0
        permit_file.sweep()
        assert found[0].exists()
    permit_file.sweep()
    assert not found[0].exists()
