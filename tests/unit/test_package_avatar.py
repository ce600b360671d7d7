"""Packing an avatar: the graph around a network, the content key, clear refusals. A toy network stands for the real."""

import ast
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from lipsync_client.avatar_facts import FACT_NAMES, AvatarFacts
from lipsync_client.avatar_file.archive import unpack_file
from lipsync_client.avatar_file.install import draft_in, installed
from lipsync_client.avatar_file.names import PackedError
from lipsync_client.errors import LipsyncError
from lipsync_composite.assets import key_name
from lipsync_composite.avatar import PackedAvatar
from lipsync_composite.loop import LOOPS, footage_index
from lipsync_server import home
from lipsync_server.networks import unet_graphs
from lipsync_server.networks.constants import with_constants
from lipsync_server.networks.graphs import expand_weights, served_encoder
from lipsync_server.networks.unet_graphs import Resident, served_unet
from lipsync_server.pipeline import LocalPipeline
from lipsync_server.repository import build as builder
from lipsync_server.repository.build import build
from lipsync_server.repository.model_folders import read_config
from lipsync_server.repository.package import check_avatar_id, package_avatar, plan, write_packed
from lipsync_server.repository.source import AvatarSource, SourceError, face_crop

# The crop where it is visible, half of it where it is masked, plus the features' first value: shows every path.
TOY_UNET = """
<ir_version: 8, opset_import: ["" : 17]>
toy (float[N,6,320,320] input, float[N,32,16,16] audio) => (float[N,3,320,320] output)
<float half = {0.5}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] three = {3}, int64[1] six = {6}>
{
  crop = Slice(input, zero, three, one)
  masked = Slice(input, three, six, one)
  sum = Add(crop, masked)
  mean = Mul(sum, half)
  channel = Slice(audio, zero, one, one)
  row = Slice(channel, zero, one, three)
  two = Add(one, one)
  first = Slice(row, zero, one, two)
  output = Add(mean, first)
}
"""
TOY_ENCODER = """
<ir_version: 8, opset_import: ["" : 17]>
toy (float[N,1,80,16] mel) => (float[N,512] features)
<int64[2] flat = {0,-1}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] stop = {512}>
{ long = Reshape(mel, flat)
  features = Slice(long, zero, stop, one) }
"""
OTHER_ENCODER = TOY_ENCODER.replace("flat = {0,-1}", "flat = {-1,1280}")
FRAMES, BOX = 5, (60, 30, 100)

pytestmark = pytest.mark.slow  # networks are packed and tried


def write_source(folder: Path, **changes: str) -> Path:
    """A tiny avatar: five frames of drifting colour, 240x160."""
    folder.mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(TOY_UNET), folder / "unet.onnx")
    with av.open(str(folder / "footage.mp4"), "w") as video:
        stream = video.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 240, 160, "yuv420p"
        for number in range(FRAMES):
            y, x = np.mgrid[:160, :240]
            picture = np.stack([x * 255 // 240, y * 255 // 160, np.full_like(x, 40 * number)], -1).astype(np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        video.mux(stream.encode())
    rows = "\n".join(f"{BOX[0]},{BOX[1]},{BOX[2]}" for _ in range(FRAMES))
    (folder / "boxes.csv").write_text(f"x,y,size\n{rows}\n")
    stated = {
        "id": "toy",
        "name": "Toy",
        "licence": "CC0-1.0",
        "provenance": "made by the test",
        "footage": "footage.mp4",
        "boxes": "boxes.csv",
        "unet": "unet.onnx",
        "loop": "pingpong",
    } | changes
    (folder / "avatar.yaml").write_text("".join(f"{key}: {value}\n" for key, value in stated.items()))
    return folder


def planes(crops: np.ndarray) -> np.ndarray:
    """Crops as the graph holds them."""
    return np.ascontiguousarray(crops.transpose(0, 3, 1, 2))


def bare_repository(folder: Path) -> Path:
    """The committed model repository, without build output."""
    generated = shutil.ignore_patterns("*.onnx", "*.crops", "avatar", "configs", "__pycache__", ".*")
    shutil.copytree(home.repository(), folder, ignore=generated)
    (folder / "lipsync" / "config.pbtxt").unlink(missing_ok=True)
    return folder


def hearing_repository(folder: Path) -> Path:
    """The same with a toy encoder, so that `LocalPipeline` can speak."""
    bare_repository(folder)
    (folder / "audio_encoder" / "1").mkdir(exist_ok=True)
    onnx.save(served_encoder(onnx.parser.parse_model(TOY_ENCODER)), folder / "audio_encoder" / "1" / "model.onnx")
    return folder


@pytest.fixture
def repository(tmp_path) -> Path:
    return bare_repository(tmp_path / "model_repository")


def test_the_graph_gathers_loops_masks_and_truncates(tmp_path):
    crops = np.random.default_rng(1).integers(0, 256, (FRAMES, 320, 320, 3), np.uint8)
    assert unet_graphs.LOOPS.keys() == set(LOOPS)  # composite's
    for loop in LOOPS:
        avatar = Resident(FRAMES, (10, 20, 200, 100), loop, key=99)
        model = with_constants(served_unet(onnx.parser.parse_model(TOY_UNET), avatar), crops=planes(crops))
        session = ort.InferenceSession(model.SerializeToString())
        positions = np.array([[0], [4], [5], [9], [123456]])
        features = np.zeros((5, 32, 16, 16), np.float32)
        mouth, key = session.run(["mouth", "avatar_key"], {"audio_features": features, "footage_position": positions})
        assert key.tolist() == [[99]] * 5
        for row, position in enumerate(positions.ravel().tolist()):
            crop = crops[footage_index(position, FRAMES, loop)]
            expected = crop.astype(np.float32) / 255 * 255
            expected[20:120, 10:210] = crop[20:120, 10:210].astype(np.float32) / 255 / 2 * 255
            assert np.abs(mouth[row] - np.floor(expected)).max() <= 1


def test_one_frame_of_footage_stands_still():
    avatar = Resident(1, (5, 5, 310, 305), "pingpong", 1)
    crops = np.zeros((1, 3, 320, 320), np.uint8)
    model = with_constants(served_unet(onnx.parser.parse_model(TOY_UNET), avatar), crops=crops)
    session = ort.InferenceSession(model.SerializeToString())
    inputs = {"audio_features": np.zeros((2, 32, 16, 16), np.float32), "footage_position": np.array([[0], [7]])}
    assert session.run(["mouth"], inputs)[0].shape == (2, 320, 320, 3)


def test_footage_that_is_too_long_for_exact_positions_is_refused():
    avatar = Resident(16384, (5, 5, 310, 305), "forward", 1)
    with pytest.raises(ValueError, match="16384 frames and loops forward: its loop must have at most 16383"):
        served_unet(onnx.parser.parse_model(TOY_UNET), avatar)


def test_the_encoder_masks_rows_and_slides_over_sixteen():
    session = ort.InferenceSession(served_encoder(onnx.parser.parse_model(TOY_ENCODER)).SerializeToString())
    windows = np.random.default_rng(2).standard_normal((18, 1, 80, 16)).astype(np.float32)
    mask = np.ones((18, 1), np.float32)
    mask[:4] = 0
    inputs = {"mel_windows": windows, "window_mask": mask}
    embedding, features = session.run(["embedding", "audio_features"], inputs)
    np.testing.assert_array_equal(embedding, windows.reshape(18, -1)[:, :512] * mask)
    np.testing.assert_array_equal(features, np.stack([embedding[i : i + 16].reshape(32, 16, 16) for i in range(3)]))


def test_weights_stored_as_fp16_become_fp32_weights():
    weights = np.arange(4, dtype=np.float16)
    graph = helper.make_graph(
        [helper.make_node("Cast", ["w16"], ["w"], to=TensorProto.FLOAT), helper.make_node("Add", ["x", "w"], ["y"])],
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(weights, "w16")],
    )
    expanded = expand_weights(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert [node.op_type for node in expanded.graph.node] == ["Add"]
    assert [tensor.data_type for tensor in expanded.graph.initializer] == [TensorProto.FLOAT]


def test_a_packed_avatar_has_its_footage_its_crops_and_its_configs(tmp_path, repository):
    source = AvatarSource.read(write_source(tmp_path / "toy"))
    key = package_avatar(source, repository)
    avatar = PackedAvatar.open(repository / "toy_lipsync" / "avatar" / key_name(key))
    assert (avatar.facts.id, avatar.facts.frames, avatar.facts.width, avatar.facts.height) == ("toy", 5, 240, 160)
    network = onnx.load(repository / "toy_lipsync" / "1" / "whole.onnx")
    crops = next(numpy_helper.to_array(tensor) for tensor in network.graph.initializer if tensor.name == "crops")
    expected = [face_crop(frame, BOX) for frame in source.frames()]
    np.testing.assert_array_equal(crops.transpose(0, 2, 3, 1), np.stack(expected))
    config = read_config(repository / "toy_lipsync" / "config.pbtxt")
    stated = {name: value.string_value for name, value in config.parameters.items()}
    facts = AvatarFacts.from_parameters(stated)
    assert config.name == "toy_lipsync" and stated.keys() == set(FACT_NAMES)
    assert (facts.avatar_id, facts.avatar_key, facts.loop, facts.frame_width) == ("toy", key, "pingpong", 240)
    ensemble = read_config(repository / "toy" / "config.pbtxt")
    assert ensemble.name == "toy"
    steps = [step.model_name for step in ensemble.ensemble_scheduling.step]
    assert steps == ["mel_preprocess", "audio_encoder", "toy_lipsync", "composite"]


def test_the_key_is_the_contents(tmp_path, repository):
    first = package_avatar(AvatarSource.read(write_source(tmp_path / "a")), repository)
    again = package_avatar(AvatarSource.read(write_source(tmp_path / "b")), repository)
    other = package_avatar(AvatarSource.read(write_source(tmp_path / "c", blend="reference")), repository)
    assert first == again != other
    assert 0 <= first < 2**31


def test_a_replaced_avatar_leaves_the_version_that_may_still_serve(tmp_path, repository):
    keys = [
        package_avatar(AvatarSource.read(write_source(tmp_path / str(quality), jpeg_quality=quality)), repository)
        for quality in (60, 70, 80)
    ]
    left = {path.name for path in (repository / "toy_lipsync" / "avatar").iterdir()}
    assert left == {key_name(key) for key in keys[1:]}
    assert {path.stem for path in (repository / "toy_lipsync" / "1").glob("*.crops")} == {key_name(keys[-1])}


def test_a_version_that_came_back_is_not_taken_for_an_old_one(tmp_path, repository):
    keys = {
        quality: package_avatar(AvatarSource.read(write_source(tmp_path / name, jpeg_quality=quality)), repository)
        for name, quality in (("first", 60), ("second", 70), ("back", 60), ("third", 80))
    }
    left = {path.name for path in (repository / "toy_lipsync" / "avatar").iterdir()}
    assert left == {key_name(keys[60]), key_name(keys[80])}


BROKEN = {
    "unknown key": ({"colour": "red"}, r"unknown keys \['colour'\]"),
    "missing footage": ({"footage": "other.mp4"}, r"other\.mp4 is missing: avatar\.yaml names it"),
    "unknown loop": ({"loop": "sideways"}, "loop is 'sideways'"),
    "unknown blend": ({"blend": "hard"}, "blend is 'hard'"),
    "mask outside": ({"mask": "[5, 5, 316, 305]"}, r"mask is \[5, 5, 316, 305\]"),
    "a number as id": ({"id": "42"}, "id is 42: it must be text, in quotes"),
    "words as quality": ({"jpeg_quality": "high"}, "jpeg_quality is 'high': it must be a whole number"),
    "one number as mask": ({"mask": "5"}, "mask is 5: it must be four whole numbers"),
    "path as id": ({"id": "../evil"}, r"id '\.\./evil' cannot be used"),
    "a stage's name": ({"id": "composite"}, "id 'composite' cannot be used"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_source_is_refused_by_name_and_writes_nothing(tmp_path, repository, case):
    changes, sentence = BROKEN[case]
    before = sorted(repository.rglob("*"))
    with pytest.raises((SourceError, ValueError), match=sentence):
        package_avatar(AvatarSource.read(write_source(tmp_path / "toy", **changes)), repository)
    assert sorted(repository.rglob("*")) == before


@pytest.mark.parametrize("location", ["absent.bin", "../secret.bin", "/etc/passwd", None])
def test_a_source_whose_network_cannot_be_read_is_refused_by_name(tmp_path, repository, location):
    """Also where it takes weights from files that are absent, or not beside it."""
    source = write_source(tmp_path / "toy")
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    content = onnx.helper.make_model(graph).SerializeToString() if location else b"junk" * 10
    (source / "unet.onnx").write_bytes(content)
    with pytest.raises(SourceError, match=r"unet\.onnx cannot be read: "):
        package_avatar(AvatarSource.read(source), repository)


def test_what_avatar_yaml_lacks_is_named(tmp_path):
    folder = write_source(tmp_path / "toy")
    (folder / "avatar.yaml").write_text("id: toy\nname: Toy\nlicence: CC0-1.0\nprovenance: test\nboxes: boxes.csv\n")
    with pytest.raises(SourceError, match=r"avatar\.yaml lacks footage, unet"):
        AvatarSource.read(folder)


def test_boxes_that_do_not_fit_the_footage_are_refused(tmp_path, repository):
    folder = write_source(tmp_path / "toy")
    (folder / "boxes.csv").write_text("x,y,size\n60,30,100\n")
    with pytest.raises(ValueError, match="1 boxes but more frames"):
        package_avatar(AvatarSource.read(folder), repository)
    (folder / "boxes.csv").write_text("left,top\n60,30\n")
    with pytest.raises(SourceError, match=r"boxes\.csv must have the columns x,y,size"):
        package_avatar(AvatarSource.read(folder), repository)


def test_a_network_with_other_inputs_is_refused(tmp_path, repository):
    folder = write_source(tmp_path / "toy")
    onnx.save(onnx.parser.parse_model(TOY_ENCODER), folder / "unet.onnx")
    with pytest.raises(ValueError, match=r"the U-Net has inputs \['mel'\].*it must have \['audio', 'input'\]"):
        package_avatar(AvatarSource.read(folder), repository)


def test_only_what_changed_is_built_again(tmp_path, repository):
    avatars, told = tmp_path / "avatars", []
    write_source(avatars / "demo", id="demo")
    (avatars / "audio_encoder").mkdir()
    onnx.save(onnx.parser.parse_model(TOY_ENCODER), avatars / "audio_encoder" / "encoder.onnx")

    def run() -> list[str]:
        told.clear()
        build(repository, avatars, told.append)
        return list(told)

    assert run() == [
        "building the audio encoder",
        "building the audio encoder in INT8",
        "building the demo avatar",
    ]
    assert run() == []
    text = (avatars / "demo" / "avatar.yaml").read_text()
    (avatars / "demo" / "avatar.yaml").write_text(text.replace("pingpong", "forward"))
    assert run() == ["building the demo avatar"]
    (repository / "audio_encoder" / "1" / "model.onnx").unlink()
    assert run() == ["building the audio encoder"]


def test_a_repository_that_can_only_be_read_is_served_if_it_is_built(tmp_path, repository, monkeypatch):
    avatars = tmp_path / "avatars"
    write_source(avatars / "demo", id="demo")
    (avatars / "audio_encoder").mkdir()
    onnx.save(onnx.parser.parse_model(TOY_ENCODER), avatars / "audio_encoder" / "encoder.onnx")
    access = os.access

    def read_only(path: str | Path, mode: int) -> bool:
        return access(path, mode) and not (Path(path) == repository and mode & os.W_OK)

    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in [repository, *repository.rglob("*")]}

    monkeypatch.setattr(os, "access", read_only)
    before = state()
    with pytest.raises(LipsyncError, match=r"cannot be written, and its audio encoder is to be built.*`--home`"):
        build(repository, avatars)
    assert state() == before
    monkeypatch.setattr(os, "access", access)
    build(repository, avatars)
    monkeypatch.setattr(os, "access", read_only)
    before = state()
    build(repository, avatars)
    assert state() == before


def test_avatars_packed_for_another_shared_encoder_are_named_and_refused(tmp_path, repository):
    avatars, told = tmp_path / "avatars", []
    write_source(avatars / "demo", id="demo")
    (avatars / "audio_encoder").mkdir()

    def build_with(encoder: str) -> None:
        onnx.save(onnx.parser.parse_model(encoder), avatars / "audio_encoder" / "encoder.onnx")
        told.clear()
        build(repository, avatars, told.append)

    build_with(TOY_ENCODER)
    trained = write_source(avatars / "toy", encoder="encoder.onnx")
    shutil.copy(avatars / "audio_encoder" / "encoder.onnx", trained)
    package_avatar(AvatarSource.read(trained), repository)
    package_avatar(AvatarSource.read(trained), repository, to=tmp_path / "toy.zip")
    assert not (repository / "toy_audio_encoder").exists()
    build_with(TOY_ENCODER)
    assert told == []
    build_with(OTHER_ENCODER)
    sentence = "toy was packed for another audio encoder than that of"
    assert "building the demo avatar" in told and told[-1].startswith(sentence)
    with draft_in(repository) as draft:
        avatar = unpack_file(tmp_path / "toy.zip", draft)
        with pytest.raises(PackedError, match=sentence), installed(draft, avatar, repository):
            pytest.fail("it was put in place")
    package_avatar(AvatarSource.read(trained), repository)
    assert (repository / "toy_audio_encoder").exists()
    build_with(OTHER_ENCODER)
    assert told == []


@pytest.mark.parametrize("bad", ["", "Anna", "a/b", "x_lipsync", "lipsync", "mel_preprocess", "-a", "a" * 49])
def test_an_id_that_is_no_safe_model_name_is_refused(bad):
    with pytest.raises(SourceError, match="cannot be used"):
        check_avatar_id(bad)


def test_a_packed_draft_renders_as_the_avatar_does_once_it_is_installed(tmp_path):
    repository = hearing_repository(tmp_path / "model_repository")
    source, speech = AvatarSource.read(write_source(tmp_path / "toy")), home.read_sample()[:6400]
    with draft_in(repository) as draft:
        write_packed(plan(source, repository), draft)
        drafted = [frame.jpeg for frame in LocalPipeline(repository, "toy", packed=draft).render(speech)]
        assert not (repository / "toy").exists()
    package_avatar(source, repository)
    assert drafted == [frame.jpeg for frame in LocalPipeline(repository, "toy").render(speech)]


BUILDING = ("lipsync_composite", "lipsync_mel", "lipsync_server.networks", "lipsync_server.repository")


@pytest.mark.parametrize("code", ["ENCODER_CODE", "INT8_ENCODER_CODE", "AVATAR_CODE"])
def test_what_is_built_is_built_again_when_any_module_behind_it_changes(code):
    """The build compares the files of these modules: one that they import, and the list lacks, would go unnoticed."""
    listed = {module.__name__ for module in getattr(builder, code)}
    imported = set()
    for module in getattr(builder, code):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(BUILDING):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= {name for name in inner if find_spec(name)} if node.module in BUILDING else {node.module}
    assert imported <= listed
