"""What the composite stage answers: frames, times, and errors that name the field."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lipsync_composite.assets import key_name, write_assets
from lipsync_composite.avatar import AssetsError, PackedAvatar
from lipsync_composite.frame_request import Avatars, FrameRequestError, compose
from lipsync_composite.segments import paste_patch

STAGE = Path(__file__).parents[2] / "model_repository" / "composite"
MOUTHS = np.random.default_rng(1).integers(0, 256, (3, 320, 320, 3), dtype=np.uint8)


def pack(repository: Path, model: str, key: int, seed: int) -> Path:
    frames = np.random.default_rng(seed).integers(0, 256, (4, 96, 128, 3), dtype=np.uint8)
    folder = repository / model / "avatar" / key_name(key)
    boxes = [[10, 10, 64]] * 4
    write_assets(
        folder, frames, boxes, avatar_id=model, loop="forward", blend="soft", mask=[5, 5, 310, 305], quality=75
    )
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    pack(tmp_path, "lipsync", 7, seed=1)
    pack(tmp_path, "ben_lipsync", -9, seed=2)
    (tmp_path / "composite" / "1").mkdir(parents=True)
    return tmp_path


def column(*values: int) -> np.ndarray:
    return np.array(values, np.int64)[:, None]


class Response(SimpleNamespace):
    """What the stage handed to Triton: `tensors` by name, or `error`."""

    def __init__(self, output_tensors: Any = (), error: Any = None) -> None:
        super().__init__(tensors={t.name: t.array for t in output_tensors}, error=error)


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the module that exists only inside Triton."""
    fake: Any = ModuleType("triton_python_backend_utils")
    fake.Tensor = lambda name, array: SimpleNamespace(name=name, array=array, as_numpy=lambda: array)
    fake.InferenceResponse = Response
    fake.TritonError = lambda message, code: SimpleNamespace(message=message, code=code)
    fake.TritonError.INVALID_ARG, fake.TritonError.INTERNAL = "INVALID_ARG", "INTERNAL"
    fake.Logger = SimpleNamespace(log_error=lambda message: None)
    fake.get_input_tensor_by_name = lambda request, name: request.get(name)
    monkeypatch.setitem(sys.modules, fake.__name__, fake)


@pytest.fixture
def ask(repository: Path, triton: None) -> Any:
    """Calls the stage with one call's requests, given as dicts of arrays."""
    spec = importlib.util.spec_from_file_location("composite_model", STAGE / "1" / "model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    config = {"parameters": {"max_frames": {"string_value": "32"}}}
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(repository / "composite"),
            "model_name": "composite",
        }
    )
    tensor = sys.modules["triton_python_backend_utils"].Tensor

    def call(*requests: dict[str, np.ndarray]) -> list[Response]:
        return model.execute([{name: tensor(name, a) for name, a in request.items()} for request in requests])

    return call


def test_frames_of_two_avatars_in_one_request(repository: Path, ask: Any) -> None:
    keys, positions = column(7, -9, 7), column(0, 5, 6)
    (response,) = ask({"avatar_key": keys, "footage_position": positions, "mouth": MOUTHS})
    one = PackedAvatar.open(repository / "lipsync" / "avatar" / key_name(7))
    other = PackedAvatar.open(repository / "ben_lipsync" / "avatar" / key_name(-9))
    expected = [one.render(0, MOUTHS[0]), other.render(1, MOUTHS[1]), one.render(2, MOUTHS[2])]
    assert response.tensors["JPEG"].tolist() == expected
    assert response.tensors["FRAME_INDEX"].tolist() == [0, 1, 2]


def test_patches_come_where_a_request_asks_and_give_its_frames(repository: Path, ask: Any) -> None:
    request = {"avatar_key": column(7, -9, 7), "footage_position": column(0, 5, 6), "mouth": MOUTHS}
    plain = {name: request[name] for name in ("avatar_key", "footage_position")}
    asked, refused, whole, footage = ask(
        {**request, "patches": np.array([True])}, {**request, "patches": np.array([False])}, request, plain
    )
    for answer in (refused, whole):
        assert len(answer.tensors["PATCH"]) == 0
        assert answer.tensors["PATCH_BOX"].shape == (0, 4)
        assert answer.tensors["PATCH_KEY"].shape == (0,)
    assert len(asked.tensors["JPEG"]) == 0
    assert asked.tensors["PATCH_BOX"].dtype == np.int32
    assert asked.tensors["PATCH_KEY"].tolist() == [7, -9, 7]
    pasted = [
        paste_patch(frame, patch, tuple(box))
        for frame, patch, box in zip(
            footage.tensors["JPEG"], asked.tensors["PATCH"], asked.tensors["PATCH_BOX"].tolist(), strict=True
        )
    ]
    assert pasted == whole.tensors["JPEG"].tolist() == refused.tensors["JPEG"].tolist()


def test_plain_footage_has_no_patches(ask: Any) -> None:
    (response,) = ask({"avatar_key": column(7), "footage_position": column(0), "patches": np.array([True])})
    assert response.error.code == "INVALID_ARG"
    assert "mouth is missing" in response.error.message


def test_without_mouth_the_footage_comes_back(repository: Path, ask: Any) -> None:
    (response,) = ask({"avatar_key": column(7, 7), "footage_position": column(1, 2)})
    avatar = PackedAvatar.open(repository / "lipsync" / "avatar" / key_name(7))
    assert response.tensors["JPEG"].tolist() == [avatar.footage_jpeg(1), avatar.footage_jpeg(2)]


@pytest.mark.parametrize("marked", [True, False])
def test_pictures_are_marked_unless_the_servers_setting_is_false(
    repository: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, marked: bool
) -> None:
    monkeypatch.setenv("LIPSYNC_MARK_SYNTHETIC", str(marked).lower())
    ask = request.getfixturevalue("ask")
    (response,) = ask({"avatar_key": column(7), "footage_position": column(1)})
    avatar = PackedAvatar.open(repository / "lipsync" / "avatar" / key_name(7), mark=marked)
    assert response.tensors["JPEG"].tolist() == [avatar.footage_jpeg(1)]


def test_frame_index_and_times_are_handed_on(ask: Any) -> None:
    now = time.monotonic_ns()
    request = {"avatar_key": column(7, 7), "footage_position": column(0, 1), "frame_index": np.array([40, 41])}
    request["clock"] = np.array([now - 9_000_000, now - 4_000_000, 0])
    (response,) = ask(request)
    assert response.tensors["FRAME_INDEX"].tolist() == [40, 41]
    times = response.tensors["TIMINGS_MS"]
    assert times.dtype == np.float32
    assert times[0] == 5
    assert times[1] >= 4
    assert times[:3].sum() == pytest.approx(times[3])


def test_times_without_a_clock(ask: Any) -> None:
    (response,) = ask({"avatar_key": column(7), "footage_position": column(0)})
    audio, inference, composite, total = response.tensors["TIMINGS_MS"].tolist()
    assert audio == inference == 0
    assert composite == total > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"avatar_key": column(7, 7, 8)}, "avatar_key is 8, but there is no avatar 0000000000000008"),
        ({"avatar_key": column(7, 7)}, "avatar_key has 2 entries; allowed: 3"),
        ({"footage_position": column(0, -5, 1)}, "footage_position is -5; allowed: 0 and above"),
        ({"mouth": MOUTHS[:2]}, "mouth has 2 entries; allowed: 3"),
        ({"frame_index": np.arange(4)}, "frame_index has 4 entries; allowed: 3"),
        ({"footage_position": column(*range(33))}, "footage_position has 33 frames; allowed: 1 to 32"),
        ({"footage_position": np.zeros((0, 1), np.int64)}, "footage_position has 0 frames; allowed: 1 to 32"),
    ],
)
def test_one_bad_request_harms_no_other(ask: Any, change: dict[str, np.ndarray], words: str) -> None:
    good = {"avatar_key": column(7, 7, 7), "footage_position": column(0, 1, 2), "mouth": MOUTHS}
    before, bad, after = ask(good, {**good, **change}, good)
    assert bad.error.code == "INVALID_ARG"
    assert words in bad.error.message
    assert before.error is after.error is None
    assert before.tensors["JPEG"].tolist() == after.tensors["JPEG"].tolist()


@pytest.mark.parametrize("name", ["avatar_key", "footage_position"])
def test_a_missing_input_is_named(ask: Any, name: str) -> None:
    request = {"avatar_key": column(7), "footage_position": column(0), "mouth": MOUTHS[:1]}
    del request[name]
    (response,) = ask(request)
    assert response.error.code == "INVALID_ARG"
    assert f"{name} is missing" in response.error.message


def test_broken_assets_are_the_servers_fault(repository: Path, ask: Any) -> None:
    (repository / "ben_lipsync" / "avatar" / key_name(-9) / "cuts.npy").unlink()
    good, bad = ({"avatar_key": column(key), "footage_position": column(0)} for key in (7, -9))
    first, second = ask(good, bad)
    assert first.error is None
    assert second.error.code == "INTERNAL"
    assert "cuts.npy is missing" in second.error.message


def test_a_removed_avatar_is_gone_and_a_moved_one_found(repository: Path) -> None:
    avatars = Avatars(repository)
    first = avatars.get(7)
    assert avatars.get(7) is first
    folder = repository / "lipsync" / "avatar" / key_name(7)
    moved = repository / "cy_lipsync" / "avatar" / key_name(7)
    moved.parent.mkdir(parents=True)
    folder.rename(moved)
    assert avatars.get(7) is not first
    shutil.rmtree(moved)
    with pytest.raises(FrameRequestError, match="avatar_key is 7"):
        avatars.get(7)


@pytest.mark.parametrize("name", ["footage.bin", "pixels.bin"])
def test_a_cut_file_that_is_replaced_by_a_whole_one_is_served_again(repository: Path, name: str) -> None:
    avatars, last = Avatars(repository), (column(7), column(3), MOUTHS[:1])
    good = compose(avatars, *last, 32)
    file = repository / "lipsync" / "avatar" / key_name(7) / name
    content = file.read_bytes()
    os.truncate(file, len(content) - 1)
    with pytest.raises(AssetsError, match=f"{name} is broken: it was cut while it was in use"):
        compose(avatars, *last, 32)
    file.with_suffix(".new").write_bytes(content)
    file.with_suffix(".new").rename(file)  # the open one is another file
    assert compose(avatars, *last, 32) == good


def test_only_so_many_avatars_stay_open(repository: Path) -> None:
    pack(repository, "cy_lipsync", 3, seed=3)
    avatars = Avatars(repository, capacity=2)
    kept, dropped = avatars.get(7), avatars.get(-9)
    assert avatars.get(7) is kept
    avatars.get(3)
    assert avatars.get(7) is kept
    assert avatars.get(-9) is not dropped


def test_a_half_written_avatar_is_not_found(repository: Path) -> None:
    folder = repository / "lipsync" / "avatar" / key_name(7)
    folder.rename(folder.with_name(f".{folder.name}.draft"))
    with pytest.raises(FrameRequestError):
        Avatars(repository).get(7)


def test_frames_are_the_same_alone_and_together(repository: Path) -> None:
    keys, positions = column(7, -9, 7), column(3, 2, 1)
    together = compose(Avatars(repository), keys, positions, MOUTHS, 32)
    cut = [slice(i, i + 1) for i in range(3)]
    alone = [compose(Avatars(repository), keys[i], positions[i], MOUTHS[i], 32)[0] for i in cut]
    assert together == alone


def test_config_declares_what_the_stage_reads_and_gives() -> None:
    text_format = pytest.importorskip("google.protobuf.text_format")
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    config = text_format.Parse((STAGE / "config.pbtxt").read_text(), ModelConfig())
    assert [i.name for i in config.input if i.optional] == ["mouth", "frame_index", "clock", "patches"]
    assert [i.name for i in config.input if not i.optional] == ["avatar_key", "footage_position"]
    assert [o.name for o in config.output] == [
        *("JPEG", "PATCH", "PATCH_BOX", "PATCH_KEY", "FRAME_INDEX", "TIMINGS_MS")
    ]
    assert int(config.parameters["max_frames"].string_value) > 0


def test_errors_name_the_file(repository: Path) -> None:
    (repository / "lipsync" / "avatar" / key_name(7) / "footage.bin").write_bytes(b"cut")
    with pytest.raises(AssetsError, match=r"footage\.bin is broken: 3 bytes instead of"):
        Avatars(repository).get(7)


def test_downloaded_models_find_their_avatar_and_never_a_strangers(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton downloads a repository on S3 model by model, into temporary folders side by side."""
    (repository / "lipsync").rename(repository / "fileXyZ")
    assert Avatars.beside(repository / "fileAbC", "composite").get(7)
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(FrameRequestError, match="avatar_key is 7"):
        Avatars.beside(repository / "fileAbC", "composite").get(7)
    assert Avatars.beside(repository / "composite", "composite").get(7)
