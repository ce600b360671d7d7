"""The preset turbo: a head learns an avatar's last stage, is measured, and packed if it is close enough."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from test_evaluate import TwoDots
from test_package_avatar import hearing_repository, write_source

torch = pytest.importorskip("torch", reason="distilling needs the extra studio")

import speech  # noqa: E402
from lipsync_client.errors import LipsyncError  # noqa: E402
from lipsync_server.repository import package  # noqa: E402
from lipsync_server.repository.model_folders import INT8_ENCODER, write_encoder  # noqa: E402
from lipsync_server.repository.source import AvatarSource  # noqa: E402
from lipsync_studio.cli import distil as command  # noqa: E402
from lipsync_studio.distillation import distil as distilling  # noqa: E402
from lipsync_studio.distillation import examples as making  # noqa: E402
from lipsync_studio.distillation.comparison import Comparison, Pair  # noqa: E402
from lipsync_studio.distillation.examples import Examples  # noqa: E402
from lipsync_studio.distillation.head import Head, export_head  # noqa: E402
from lipsync_studio.distillation.sheet import closures, widest, write_sheet  # noqa: E402
from lipsync_studio.distillation.teacher import Shown, Teacher, shown  # noqa: E402
from lipsync_studio.distillation.training import train_head  # noqa: E402
from lipsync_studio.evaluation.mouth_meter import MouthShape  # noqa: E402
from lipsync_studio.evaluation.recording import RenderedSpeech  # noqa: E402
from lipsync_studio.export import export_unet  # noqa: E402
from lipsync_studio.networks import UNet  # noqa: E402
from lipsync_studio.training.runs import Stop  # noqa: E402

MASK = (28, 56, 264, 244)
SMALL = Shown((slice(50, 80), slice(20, 50)), (slice(25, 40), slice(10, 25)), (slice(4, 24), slice(4, 24)))


def mask(mask: tuple[int, ...], blend: str = "soft") -> Shown:
    return shown(SimpleNamespace(mask=mask, blend=blend))


class ToyTeacher:
    """Half as bright where the audio is louder; counts what it is asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def half(self, crop: np.ndarray, audio: np.ndarray) -> np.ndarray:
        self.asked += 1
        return np.full((2, 160, 160), audio.mean(), np.float32)

    def output(self, crop: np.ndarray, audio: np.ndarray) -> np.ndarray:
        return crop.transpose(2, 0, 1) / np.float32(255) * np.float32(1 - audio.mean() / 2)


def toy_examples(folder: Path, count: int = 10) -> tuple[Examples, ToyTeacher]:
    rng, teacher = np.random.default_rng(5), ToyTeacher()
    y, x = np.mgrid[:320, :320]  # smooth: noise cannot be learned
    crops = np.stack([np.stack([x * bright, y * bright, (x + y) // 2], -1) * 0.75 for bright in (0.3, 0.6, 1.0)])
    audio = np.broadcast_to(rng.random((4, 1, 1, 1), np.float32), (4, 32, 16, 16))
    return Examples(folder, teacher, crops.astype(np.uint8), audio, SMALL, count), teacher


class StopAfter(Stop):
    """As if Ctrl-C came when it is asked for the n-th time."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0


# --- the head ---


@pytest.mark.parametrize("channels", [16, 32])
def test_the_exported_head_computes_what_the_trained_one_does(channels):
    torch.manual_seed(0)
    head = Head(channels).eval()
    inputs = {"half": torch.rand(2, channels, 160, 160), "crop": torch.rand(2, 3, 320, 320)}
    model = export_head(head)
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Reshape", "Transpose"})
    assert model.ByteSize() < 100_000
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (got,) = session.run(["output"], {name: values.numpy() for name, values in inputs.items()})
    with torch.no_grad():
        np.testing.assert_allclose(got, head(**inputs).numpy(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("hidden", [MASK, (5, 5, 310, 305), (27, 55, 263, 243)])
def test_a_head_in_the_masks_window_draws_what_it_draws_in_the_whole(hidden):
    torch.manual_seed(0)
    head, half, crop = Head(4).eval(), torch.rand(1, 4, 160, 160), torch.rand(1, 3, 320, 320)
    region, every = mask(hidden), (slice(None), slice(None))
    x, y, width, height = hidden
    with torch.no_grad():
        part = head(half[(*every, *region.half)], crop[(*every, *region.window)])[(*every, *region.inner)]
        whole = head(half, crop)[:, :, y : y + height, x : x + width]
    np.testing.assert_allclose(part.numpy(), whole.numpy(), atol=1e-6, rtol=0)


def test_a_reference_blend_shows_the_whole_picture():
    assert mask(MASK, "reference") == Shown(*[(slice(0, n), slice(0, n)) for n in (320, 160, 320)])


def test_the_teacher_gives_what_the_last_stage_enlarges_and_the_picture():
    torch.manual_seed(0)
    network = UNet((2, 4, 8, 16, 32)).eval()
    enlarged = []
    network.up5.up.register_forward_pre_hook(lambda _, inputs: enlarged.append(inputs[0]))
    model = export_unet(network)
    teacher = Teacher(model, model, MASK)
    rng = np.random.default_rng(0)
    crop, audio = rng.integers(0, 256, (320, 320, 3), np.uint8), rng.random((32, 16, 16), np.float32)
    seen = torch.from_numpy(crop).permute(2, 0, 1).float() / 255
    masked = seen.clone()
    masked[:, 56:300, 28:292] = 0
    with torch.no_grad():
        expected = network(torch.cat([seen, masked])[None], torch.from_numpy(audio)[None])[0]
    assert teacher.channels == 2
    np.testing.assert_allclose(teacher.output(crop, audio), expected.numpy(), atol=1e-4, rtol=0)
    np.testing.assert_allclose(teacher.half(crop, audio), enlarged[-1][0].numpy(), atol=1e-4, rtol=1e-3)


# --- examples and training ---


def test_examples_go_on_where_they_were_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "PART", 4)
    (whole, _), (parted, teacher) = toy_examples(tmp_path / "whole"), toy_examples(tmp_path / "parted")
    with Stop() as stop:
        assert whole.make(stop)
    with StopAfter(6) as stop:
        assert not parted.make(stop)
    again, second = toy_examples(tmp_path / "parted")
    with Stop() as stop:
        assert again.make(stop)
    assert (teacher.asked, second.asked) == (6, 6)  # the first four are kept
    numbers = np.arange(10)
    for one, other in zip(whole.batch(numbers), again.batch(numbers), strict=True):
        assert torch.equal(one, other)
    again.remove()
    assert not list((tmp_path / "parted").iterdir())


def test_an_example_is_the_window_of_one_crop_and_its_picture(tmp_path):
    examples, _ = toy_examples(tmp_path)
    with Stop() as stop:
        examples.make(stop)
    half, crop, target = examples.batch(np.arange(10))
    assert half.shape == (10, 2, 15, 15) and crop.shape == target.shape == (10, 3, 30, 30)
    louder = half.mean((1, 2, 3))[:, None, None, None]
    np.testing.assert_allclose(target.numpy(), (crop * (1 - louder / 2)).numpy(), atol=4e-3, rtol=0)
    assert len(torch.unique(louder)) > 1 and len(torch.unique(crop.mean((1, 2, 3)))) > 1


def test_training_that_is_stopped_goes_on_to_the_same_head(tmp_path):
    examples, _ = toy_examples(tmp_path)
    weights = []
    with Stop() as stop:
        examples.make(stop)
        for path, stops in ((tmp_path / "whole.pt", [stop]), (tmp_path / "parted.pt", [StopAfter(3), stop])):
            for one in stops:
                torch.manual_seed(0)
                head = Head(2)
                assert train_head(head, examples, 8, path, one) == (one is stop)
            weights.append(head.state_dict())
    for name, values in weights[0].items():
        assert torch.equal(values, weights[1][name]), name


def test_training_brings_the_head_to_its_teacher(tmp_path):
    examples, _ = toy_examples(tmp_path)
    torch.manual_seed(0)
    head = Head(2)
    with Stop() as stop:
        examples.make(stop)
        batch = examples.batch(np.arange(10))
        with torch.no_grad():
            before = (head(*batch[:2]) - batch.target).square().mean()
        train_head(head, examples, 150, tmp_path / "head.pt", stop)
    with torch.no_grad():
        after = (head(*batch[:2]) - batch.target).square().mean()
    assert after < before / 30


# --- figures ---


def comparison(spoken: bool, error: float = 1.0, shape: float = 0.0, still: float = 1.0) -> Comparison:
    """Ten frames: square error in levels, difference of the mouth's measures, change of a block."""
    patches = [SimpleNamespace(largest_block=[value], flicker=[1.0]) for value in (1.0, still)]
    result = Comparison(RenderedSpeech("x", np.zeros(6400, np.float32)), spoken, 0, *patches)
    result.squares = [error] * 10
    result.teacher_shapes = [MouthShape(float(at), 40.0, 0.0) for at in range(10)]
    result.turbo_shapes = [MouthShape(at + shape, 40.0 + shape, 0.0) for at in range(10)]
    result.pairs = [Pair(*(np.full((30, 40, 3), value, np.uint8) for value in (100, 110))) for _ in range(10)]
    return result


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (comparison(True, error=6.4, shape=0.9, still=9.0), []),
        (comparison(True, error=6.6), ["the mouth is 39.9 dB from the network's, at least 40 must be"]),
        (comparison(True, shape=-1.1), ["opening is 1.10 % of the eyes'", "width is 1.10 % of the eyes'"]),
        (comparison(False, error=9.0, shape=9.0, still=3.0), []),
        (comparison(False, still=3.1), ["a block changes by 3.10 levels between frames, at most 3.00 may"]),
    ],
)
def test_a_bound_that_is_not_kept_is_named(found, said):
    failures = found.failures()
    assert len(failures) == len(said) and all(part in failure for part, failure in zip(said, failures, strict=True))


def test_a_network_that_is_restless_itself_is_no_failure_of_the_head():
    found = comparison(False, still=5.0)
    found.teacher_patch.largest_block = [5.0]
    assert not found.failures()


def test_the_sheet_shows_open_closed_and_resting_mouths(tmp_path):
    spoken, silent = comparison(True), comparison(False)
    spoken.speech = RenderedSpeech("x", speech.babble(6400))
    assert widest(spoken) == [0, 3, 6, 9] and 0 not in closures(spoken) and closures(spoken)
    write_sheet(tmp_path / "sheet.png", spoken, silent)
    import cv2

    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (3 * 30, 4 * 3 * 40, 3)
    assert sheet[29, 100].tolist() == [208] * 3  # grey and eight times the difference of ten levels


# --- the command ---


@pytest.fixture
def avatar(tmp_path, monkeypatch) -> Path:
    """A tiny avatar with a U-Net of few channels, and a repository for it; nothing is calibrated."""
    folder = write_source(tmp_path / "avatars" / "toy")
    torch.manual_seed(0)
    onnx.save(export_unet(UNet((2, 4, 8, 16, 32))), folder / "unet.onnx")
    repository = hearing_repository(tmp_path / "model_repository")
    write_encoder(repository, INT8_ENCODER, onnx.load(repository / "audio_encoder" / "1" / "model.onnx"))
    monkeypatch.setattr(distilling.home, "repository", lambda: repository)
    monkeypatch.setattr(distilling, "build", lambda _: None)
    for module in (distilling, package):
        monkeypatch.setattr(module, "quantised", lambda network, *_: network)
    monkeypatch.setattr(distilling, "FaceMesh", TwoDots)
    monkeypatch.setattr(distilling, "EXAMPLES", 4)
    monkeypatch.setattr(distilling.home, "read_sample", lambda: speech.babble(640 * 24))
    quiet = [RenderedSpeech(name, np.zeros(640 * 5, np.float32)) for name in ("silence", "noise")]
    monkeypatch.setattr(distilling, "silences", lambda: quiet)
    monkeypatch.setattr(distilling, "training_speeches", lambda: [speech.babble(640 * 8)])
    (folder / "avatar.yaml").write_text("# what Anna agreed to\n" + (folder / "avatar.yaml").read_text())
    return folder


def test_a_head_that_is_not_close_is_refused_unless_told(avatar, tmp_path, capsys):
    options = {"steps": 2, "avatars": avatar.parent, "work": tmp_path / "work"}
    stated = (avatar / "avatar.yaml").read_text()
    with pytest.raises(LipsyncError, match=r"toy was not packed. Train it with more --steps, or give --anyway"):
        command.distil("toy", **options)
    assert "held-out: the mouth is" in " ".join(capsys.readouterr().out.split())
    (work,) = (tmp_path / "work" / "toy").iterdir()
    assert {"sheet.png", "table.md", "head.onnx", "head.pt"} <= {path.name for path in work.iterdir()}
    assert (avatar / "avatar.yaml").read_text() == stated and not (avatar / "head.onnx").exists()
    assert not (tmp_path / "model_repository" / "toy").exists()

    command.distil("toy", **options, anyway=True, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["packed"] and found["failures"]
    assert found["table"]["recordings"] == ["held-out", "silence", "noise"]
    assert found["table"]["rows"][0]["values"] == ["6", "5", "5"]
    source = AvatarSource.read(avatar)
    assert (source.preset, source.head) == ("turbo", "head.onnx")
    assert (avatar / "avatar.yaml").read_text() == f"{stated}head: head.onnx\npreset: turbo\n"
    assert (avatar / "head.onnx").read_bytes() == (work / "head.onnx").read_bytes()
    assert (tmp_path / "model_repository" / "toy" / "config.pbtxt").exists()
    assert not list(work.glob("half-*"))  # a gigabyte for a real avatar


def test_ctrl_c_is_answered_with_how_to_go_on(avatar, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distilling, "Stop", lambda: StopAfter(2))
    before = signal.getsignal(signal.SIGINT)
    assert distilling.distil(avatar, tmp_path / "work", steps=2) is None
    assert signal.getsignal(signal.SIGINT) is before
    assert "The same command continues." in " ".join(capsys.readouterr().err.split())


def test_what_avatar_yaml_stated_before_is_replaced(avatar, tmp_path):
    stated = (avatar / "avatar.yaml").read_text()
    (avatar / "avatar.yaml").write_text(f"preset: low # fast\n{stated}")
    (tmp_path / "head").write_bytes(b"x")
    distilling._state_head(avatar, tmp_path / "head")
    assert (avatar / "avatar.yaml").read_text() == f"preset: turbo\n{stated}head: head.onnx\n"


def test_another_network_or_mask_begins_again(avatar, tmp_path):
    folders = [distilling._work_folder(AvatarSource.read(avatar), tmp_path)]
    stated = (avatar / "avatar.yaml").read_text()
    (avatar / "avatar.yaml").write_text(f"{stated}mask: [28, 56, 264, 244]\n")
    folders.append(distilling._work_folder(AvatarSource.read(avatar), tmp_path))
    (avatar / "unet.onnx").write_bytes((avatar / "unet.onnx").read_bytes() + b" ")
    folders.append(distilling._work_folder(AvatarSource.read(avatar), tmp_path))
    assert len(set(folders)) == 3
