"""Imported avatars look as in SyncTalk_2D. For a wrong file the error says what is wrong with it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="checkpoints need the extra studio")

from test_export import realistic  # noqa: E402
from test_package_avatar import TOY_ENCODER, TOY_UNET, hearing_repository  # noqa: E402

from lipsync_client.cli.main import app  # noqa: E402
from lipsync_server import home  # noqa: E402
from lipsync_server.networks.graphs import served_encoder  # noqa: E402
from lipsync_server.pipeline import LocalPipeline  # noqa: E402
from lipsync_server.repository.package import package_avatar  # noqa: E402
from lipsync_server.repository.source import AvatarSource, SourceError, face_crop  # noqa: E402
from lipsync_studio.export import export_encoder, export_unet  # noqa: E402
from lipsync_studio.importing.importer import ImportOptions, import_avatar, plan_import  # noqa: E402
from lipsync_studio.importing.mask import MASKS, detect_mask  # noqa: E402
from lipsync_studio.importing.network_file import read_encoder, read_unet  # noqa: E402
from lipsync_studio.networks import AudioEncoder, UNet  # noqa: E402
from lipsync_studio.prepare.dataset import read_dataset  # noqa: E402
from synctalk_dataset import BOX, FRAMES, write_dataset  # noqa: E402


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Checkpoints as SyncTalk_2D's training leaves them, with random weights, and a dataset."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(7)
    torch.save(realistic(UNet("full")).state_dict(), folder / "unet.pth")
    encoder = realistic(AudioEncoder()).state_dict()
    torch.save({k.removeprefix("audio_encoder."): v for k, v in encoder.items()}, folder / "ave.pth")
    write_dataset(folder / "dataset")
    return folder


@pytest.fixture(scope="module")
def imported(trained, tmp_path_factory) -> Path:
    """The source folder made of them."""
    target = tmp_path_factory.mktemp("avatars") / "anna"
    import_avatar(
        trained / "unet.pth",
        trained / "dataset",
        target,
        ImportOptions(encoder=trained / "ave.pth", mask="reference", blend="reference"),
    )
    return target


@pytest.fixture
def repository(tmp_path) -> Path:
    return hearing_repository(tmp_path / "model_repository")


def as_the_reference_does(network, frame: np.ndarray, box, features: np.ndarray) -> np.ndarray:
    """SyncTalk_2D's inference of one frame, step by step with OpenCV and PyTorch."""
    x, y, size = box
    crop = cv2.resize(frame[y : y + size, x : x + size], (328, 328), interpolation=cv2.INTER_CUBIC)
    original = crop.copy()
    inner = crop[4:324, 4:324].copy()
    masked = cv2.rectangle(inner.copy(), (5, 5, 310, 305), (0, 0, 0), -1)
    channels = np.concatenate([inner.transpose(2, 0, 1), masked.transpose(2, 0, 1)]).astype(np.float32) / 255
    with torch.no_grad():
        output = network(torch.from_numpy(channels)[None], torch.from_numpy(features)[None])[0]
    original[4:324, 4:324] = np.array(output.numpy().transpose(1, 2, 0) * 255, np.uint8)
    result = frame.copy()
    result[y : y + size, x : x + size] = cv2.resize(original, (size, size), interpolation=cv2.INTER_CUBIC)
    return result


def test_an_imported_checkpoint_pastes_what_the_reference_pastes(trained, imported, repository):
    package_avatar(AvatarSource.read(imported), repository)
    pipeline = LocalPipeline(repository, "anna")
    start, count = FRAMES - 2, 3  # so that the footage turns back: frames 4, 5, 4
    speech = np.random.default_rng(3).normal(0, 0.1, 640 * count).astype(np.float32)
    network = UNet("full").eval()
    network.load_state_dict(torch.load(trained / "unet.pth", weights_only=True))
    features = pipeline.features(np.concatenate([speech, np.zeros(7240, np.float32)]), 0, count)
    assert np.abs(np.diff(features, axis=0)).max() > 0.1  # the frames have different audio features
    off = []
    for (position, mouth), audio in zip(pipeline.mouths(speech, start), features, strict=True):
        number = position if position < FRAMES else 2 * FRAMES - 2 - position  # there and back
        frame = cv2.imread(str(trained / "dataset" / "full_body_img" / f"{number}.jpg"))
        expected = as_the_reference_does(network, frame, (BOX[0] + number, BOX[1], BOX[2]), audio)
        patch, pasted = pipeline.avatar.composited(position, mouth)
        off.append(np.abs(pasted.astype(int) - patch.of(expected)).max(2))
        assert np.abs(patch.of(expected).astype(int) - patch.of(frame)).mean() > 20  # the mouth is not the footage's
    assert (np.stack(off) <= 1).mean() >= 0.999


def test_an_avatar_is_served_with_its_own_encoder(trained, imported, repository):
    package_avatar(AvatarSource.read(imported), repository)
    ensemble = (repository / "anna" / "config.pbtxt").read_text()
    assert 'model_name: "anna_audio_encoder"' in ensemble and 'model_name: "audio_encoder"' not in ensemble
    assert 'name: "anna_audio_encoder"' in (repository / "anna_audio_encoder" / "config.pbtxt").read_text()
    (path,) = (repository / "anna_audio_encoder").glob("*/model.onnx")
    served = onnxruntime.InferenceSession(path)
    windows = np.random.default_rng(5).uniform(-4, 4, (17, 1, 80, 16)).astype(np.float32)
    got = served.run(["embedding"], {"mel_windows": windows, "window_mask": np.ones((17, 1), np.float32)})[0]
    network = AudioEncoder().eval()
    state = torch.load(trained / "ave.pth", weights_only=True)
    network.load_state_dict({f"audio_encoder.{k}": v for k, v in state.items()})
    with torch.no_grad():
        np.testing.assert_allclose(got, network(torch.from_numpy(windows)).numpy(), atol=1e-4, rtol=0)
    shared = repository / "audio_encoder" / "1" / "model.onnx"
    onnx.save(served_encoder(onnx.load(imported / "encoder.onnx")), shared)
    package_avatar(AvatarSource.read(imported), repository)  # all share that very encoder now: it needs none of its own
    assert not (repository / "anna_audio_encoder").exists()
    assert 'model_name: "audio_encoder"' in (repository / "anna" / "config.pbtxt").read_text()


def test_the_footage_keeps_every_pixel_and_its_boxes(trained, imported):
    source = AvatarSource.read(imported)
    pictures = [cv2.imread(str(trained / "dataset" / "full_body_img" / f"{i}.jpg")) for i in range(FRAMES)]
    for frame, expected in zip(source.frames(), pictures, strict=True):
        np.testing.assert_array_equal(frame, expected)
    assert source.read_boxes() == [(BOX[0] + i, BOX[1], BOX[2]) for i in range(FRAMES)]
    assert (source.loop, source.mask, source.encoder) == ("pingpong", (5, 5, 310, 305), "encoder.onnx")


def test_a_plan_chooses_everything_and_writes_nothing(trained, tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    before = sorted(tmp_path.rglob("*"))
    plan = plan_import(trained / "unet.pth", dataset, ImportOptions(mask="corners", first=1, frames=3))
    assert sorted(tmp_path.rglob("*")) == before
    assert (plan.loop.first, plan.loop.frames, plan.loop.kind, plan.encoder) == (1, 3, "pingpong", None)
    facts = plan.facts()
    assert (facts["mask"], facts["blend"], facts["preset"]) == ([5, 5, 306, 301], "soft", "exact")
    assert "encoder" not in facts and "frames 1 to 3 of 6" in plan.findings[0]


def test_packed_folders_have_the_same_boxes(trained, tmp_path):
    expected = read_dataset(trained / "dataset").boxes
    corners = [[x, y, x + size, y + size] for x, y, size in expected]
    listed = Path(shutil.copytree(trained / "dataset" / "full_body_img", tmp_path / "a" / "frames")).parent
    (listed / "crop_rects.json").write_text(json.dumps(corners))
    assert read_dataset(listed).boxes == expected
    cached = Path(shutil.copytree(trained / "dataset" / "full_body_img", tmp_path / "b" / "full_body_img")).parent
    (cached / "cache").mkdir()
    rects = {str(i): {"rect": rect, "original_path": "x"} for i, rect in enumerate(corners)}
    (cached / "cache" / "crop_rectangles.json").write_text(json.dumps(rects))
    assert read_dataset(cached).boxes == expected
    np.testing.assert_array_equal(next(read_dataset(cached).frames(2)), next(read_dataset(listed).frames(2)))


def test_exports_are_recognised_by_shape_and_get_a_dynamic_batch(tmp_path):
    torch.manual_seed(1)
    network = realistic(UNet("half"))
    model = export_unet(network)
    for value, name in zip((*model.graph.input, *model.graph.output), ("pics", "feats", "image"), strict=True):
        for node in model.graph.node:
            node.input[:] = [name if n == value.name else n for n in node.input]
            node.output[:] = [name if n == value.name else n for n in node.output]
        value.name = name
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "best.onnx")
    session = onnxruntime.InferenceSession(read_unet(tmp_path / "best.onnx").SerializeToString())
    inputs = {
        "input": np.random.default_rng(0).random((3, 6, 320, 320), np.float32),
        "audio": np.random.default_rng(1).random((3, 32, 16, 16), np.float32),
    }
    with torch.no_grad():
        expected = network(*map(torch.from_numpy, inputs.values())).numpy()
    np.testing.assert_allclose(session.run(["output"], inputs)[0], expected, atol=1e-4, rtol=0)


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def wrong_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that people may take for the U-Net, and what they are told."""
    unet = UNet("half").state_dict()
    small = {key: value for key, value in unet.items() if not key.startswith(("down5", "up5"))}
    wenet = unet | {"audio_model.conv1.conv.0.weight": torch.zeros(64, 256, 1, 1)}
    states = {
        "encoder": (AudioEncoder().state_dict(), "is an audio encoder: give it with --encoder"),
        "sync": ({"face_encoder.0.weight": torch.zeros(1)}, "is the sync network, which only training uses"),
        "small": (small, "is the 160-pixel U-Net"),
        "wenet": (wenet, "was trained with audio mode wenet"),
        "cut": ({k: v for k, v in unet.items() if k != "outc.conv.bias"}, r"missing: 1 \(outc\.conv\.bias\)"),
        "whole": (None, "not a PyTorch checkpoint"),
    }
    result = {}
    for name, (state, sentence) in states.items():
        torch.save(state or {"model": Evil(folder / "evil")}, folder / f"{name}.pth")
        result[name] = folder / f"{name}.pth", sentence
    for name, audio, sentence in (
        ("hubert", "32,32,32", "audio mode hubert; only `ave`"),
        ("other", "7,8,9", "no mode of SyncTalk_2D"),
    ):
        text = TOY_UNET.replace("N,32,16,16", f"N,{audio}")
        onnx.save(onnx.parser.parse_model(text), folder / f"{name}.onnx")
        result[name] = folder / f"{name}.onnx", sentence
    bright = TOY_UNET.replace("half = {0.5}", "half = {5}")
    onnx.save(onnx.parser.parse_model(bright), folder / "bright.onnx")
    onnx.save(onnx.parser.parse_model(TOY_ENCODER), folder / "mel.onnx")
    (folder / "text.onnx").write_text("no")
    return result | {
        "bright": (folder / "bright.onnx", r"pictures must be in 0\.\.1"),
        "one input": (folder / "mel.onnx", r"has the inputs mel .*it must have pictures"),
        "no onnx": (folder / "text.onnx", "not a readable ONNX file"),
        "nothing": (folder / "no.pth", r"there is no file .*no\.pth"),
    }


def test_a_wrong_file_says_what_is_wrong_and_nothing_in_it_runs(tmp_path):
    for path, sentence in wrong_files(tmp_path).values():
        with pytest.raises(SourceError, match=sentence):
            read_unet(path)
    assert not (tmp_path / "evil").exists()
    torch.load(tmp_path / "whole.pth", weights_only=False)
    assert (tmp_path / "evil").exists()  # it would have run
    torch.save(UNet("half").state_dict(), tmp_path / "unet.pth")
    with pytest.raises(SourceError, match="is a U-Net: --encoder must be"):
        read_encoder(tmp_path / "unet.pth")
    with pytest.raises(SourceError, match="audio mode hubert: only `ave`"):
        read_unet(tmp_path / "unet.pth", "hubert")


def broken(dataset: Path, case: str) -> str:
    """Break a dataset; returns the sentence."""
    if case == "a hole":
        for number in (2, 3):
            (dataset / "landmarks" / f"{number}.lms").unlink()
        return "frames 2-3 of 6 have no crop box"
    if case == "few points":
        (dataset / "landmarks" / "4.lms").write_text("1 2\n3 4\n")
        return r"4\.lms must hold 110 lines"
    if case == "no boxes":
        shutil.rmtree(dataset / "landmarks")
        return "has no crop boxes"
    if case == "no frames":
        shutil.rmtree(dataset / "full_body_img")
        return "has no frames"
    if case == "outside":
        (dataset / "crop_rects.json").write_text(json.dumps([[250, 40, 381, 171]] * FRAMES))
        return "frame 0 is 320 x 240, but its crop box is x=250"
    if case == "far outside":
        (dataset / "crop_rects.json").write_text(json.dumps([[900, 40, 1031, 171]] * FRAMES))
        return "frame 0 is 320 x 240, but its crop box is x=900"
    if case == "empty":
        (dataset / "crop_rects.json").write_text(json.dumps([[70, 40, 70, 40]] * FRAMES))
        return "its crop box is x=70 y=40 size=0"
    if case == "not square":
        (dataset / "crop_rects.json").write_text(json.dumps([[70, 40, 201, 170]] * FRAMES))
        return "frame 0 has a box of 131 x 130 pixels"
    (dataset / "crop_rects.json").write_text("{")
    return "is not JSON"


CASES = ("a hole", "few points", "no boxes", "no frames", "outside", "far outside", "empty", "not square", "not JSON")


@pytest.mark.parametrize("case", CASES)
def test_broken_footage_is_refused_and_nothing_is_written(tmp_path, case):
    unit_range = TOY_UNET.replace("output = Add(mean, first)", "whole = Add(mean, first)\n  output = Sigmoid(whole)")
    onnx.save(onnx.parser.parse_model(unit_range), tmp_path / "toy.onnx")
    sentence = broken(write_dataset(tmp_path / "dataset"), case)
    with pytest.raises(SourceError, match=sentence):
        import_avatar(
            tmp_path / "toy.onnx",
            tmp_path / "dataset",
            tmp_path / "avatars" / "anna",
            ImportOptions(mask="reference"),
        )
    assert not (tmp_path / "avatars").exists()


def test_an_id_that_is_taken_or_reserved_is_refused(trained, imported):
    for name, sentence in (("composite", "cannot be used"), ("x_audio_encoder", "cannot be used")):
        with pytest.raises(SourceError, match=sentence):
            import_avatar(trained / "unet.pth", trained / "dataset", imported.parent / name)


@pytest.mark.parametrize("avatar_id", ["", ".", "../x", "/tmp/x", "x/y"])
def test_an_id_that_leads_elsewhere_replaces_no_folder(tmp_path, avatar_id):
    (tmp_path / "avatars" / "ben").mkdir(parents=True)
    command = ["avatars", "import", "unet.pth", "dataset", "--id", avatar_id, "--avatars", str(tmp_path / "avatars")]
    outcome = CliRunner().invoke(app, [*command, "--replace"])
    assert outcome.exit_code == 1
    assert re.search(r"id .* cannot be used", outcome.stderr)
    assert (tmp_path / "avatars" / "ben").is_dir()


def knowing(mask: tuple[int, int, int, int]) -> onnx.ModelProto:
    """A network that draws what this mask hides from the reference picture, and errs where it sees anything there."""
    x, y, width, height = mask
    hidden = np.zeros((1, 1, 320, 320), np.float32)
    hidden[:, :, y : y + height, x : x + width] = 1
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        network (float[1,6,320,320] input, float[1,32,16,16] audio) => (float[1,3,320,320] output)
        {
          reference, masked = Split <axis = 1> (input)
          drawn = Mul(reference, hidden)
          copied = Mul(masked, factor)
          output = Add(drawn, copied)
        }
    """)
    model.graph.initializer.append(numpy_helper.from_array(hidden, "hidden"))
    model.graph.initializer.append(numpy_helper.from_array(1 - 1.5 * hidden, "factor"))
    return model


def test_the_mask_is_detected_from_the_network():
    source = AvatarSource.read(home.AVATARS / "demo")
    frames = [frame for frame, _ in zip(source.frames(), range(4), strict=False)]
    crops = np.stack([face_crop(f, b) for f, b in zip(frames, source.read_boxes(), strict=False)])
    for name, mask in MASKS.items():
        assert detect_mask(knowing(mask), crops) == name
    assert detect_mask(export_unet(realistic(UNet("half"))), crops) is None
    assert {name: cv2_hidden(name) for name in MASKS} == {"reference": (5, 314, 5, 309), "corners": (5, 310, 5, 305)}


def cv2_hidden(name: str) -> tuple[int, int, int, int]:
    """First and last column and row that OpenCV blacks with the numbers 5, 5, 310, 305 read in one way or the other."""
    canvas = np.ones((320, 320), np.uint8)
    if name == "reference":
        cv2.rectangle(canvas, (5, 5, 310, 305), 0, -1)
    else:
        cv2.rectangle(canvas, (5, 5), (310, 305), 0, -1)
    x, y, width, height = MASKS[name]
    rows, columns = np.nonzero(canvas == 0)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (x, x + width - 1, y, y + height - 1)
    return int(columns.min()), int(columns.max()), int(rows.min()), int(rows.max())


def test_an_encoder_comes_as_a_checkpoint_or_as_an_export(trained, tmp_path):
    network = AudioEncoder().eval()
    state = torch.load(trained / "ave.pth", weights_only=True)
    network.load_state_dict({f"audio_encoder.{k}": v for k, v in state.items()})
    onnx.save(export_encoder(network), tmp_path / "ave.onnx")
    mel = np.random.default_rng(2).uniform(-4, 4, (5, 1, 80, 16)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(mel)).numpy()
    for path in (trained / "ave.pth", tmp_path / "ave.onnx"):
        session = onnxruntime.InferenceSession(read_encoder(path).SerializeToString())
        np.testing.assert_allclose(session.run(["features"], {"mel": mel})[0], expected, atol=1e-4, rtol=0)


def test_a_network_that_knows_the_corners_mask_is_recognised():
    """It copies what it sees, and paints from the whole crop only where its own mask is black."""
    hidden = np.zeros((1, 1, 320, 320), np.float32)
    hidden[:, :, 5:306, 5:311] = 1
    text = """
<ir_version: 8, opset_import: ["" : 17]>
toy (float[N,6,320,320] input, float[N,32,16,16] audio) => (float[N,3,320,320] output)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1] three = {3}, int64[1] six = {6}>
{
  crop = Slice(input, zero, three, one)
  masked = Slice(input, three, six, one)
  painted = Mul(crop, hidden)
  output = Add(masked, painted)
}
"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(hidden, "hidden"))
    crops = np.random.default_rng(0).integers(0, 256, (3, 320, 320, 3), np.uint8)
    assert detect_mask(model, crops) == "corners"


def test_an_unknown_mask_or_blend_or_part_is_refused(trained, tmp_path):
    for wrong, sentence in (
        ({"mask": "x"}, "must be reference or corners"),
        ({"blend": "hard"}, "must be soft or reference"),
        ({"mask": "reference", "first": 99}, "not in the footage"),
        ({"mask": "reference", "first": 0, "frames": 0}, "not in the footage"),
        ({"mask": "reference", "frames": 1}, "frames is 1: it must be at least 50"),
        ({"mask": "reference", "frames": 0}, "frames is 0: it must be at least 50"),
    ):
        with pytest.raises(SourceError, match=sentence):
            import_avatar(trained / "unet.pth", trained / "dataset", tmp_path / "anna", ImportOptions(**wrong))
    assert not (tmp_path / "anna").exists()
