"""Training on a person's own video: examples, pretraining, a stop that continues, and a complete avatar at the end."""

from __future__ import annotations

import shutil
import signal
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from rich.console import Console

torch = pytest.importorskip("torch", reason="training needs the extra studio")

from lipsync_server.networks.graphs import expand_weights  # noqa: E402
from lipsync_server.repository.source import AvatarSource, SourceError  # noqa: E402
from lipsync_studio.faces.landmarks import CORNERS, EYES, UNDER_LIP, UNDER_NOSE  # noqa: E402
from lipsync_studio.prepare.avatar_folder import write_boxes, write_facts, write_footage  # noqa: E402
from lipsync_studio.prepare.crop_boxes import LEFT, RIGHT  # noqa: E402
from lipsync_studio.prepare.training_folder import Frames, crop_file, write_frames, write_sound  # noqa: E402
from lipsync_studio.training import avatar as training  # noqa: E402
from lipsync_studio.training import runs  # noqa: E402
from lipsync_studio.training.stages import stages_of  # noqa: E402
from lipsync_studio.training.unet_examples import batch_of  # noqa: E402
from lipsync_studio.training.video_source import APART, CHIN, VideoSource  # noqa: E402

COUNT, CUT, BOX = 100, 60, (40, 20, 164)  # frames of each of two clips; where the first one has a cut


def landmarks(number: int) -> np.ndarray:
    """[468,2], whose mouth opens and closes; in the crop it is 80 pixels wide and its middle is at (160, 200)."""
    points = np.full((468, 2), 160.0)
    for index, place in {
        LEFT: (0, 60), RIGHT: (320, 60), EYES[0]: (80, -20), EYES[1]: (240, -20), CHIN: (160, 290),
        CORNERS[0]: (120, 200), CORNERS[1]: (200, 200), UNDER_NOSE: (160, 160), UNDER_LIP: (160, 240),
    }.items():  # fmt: skip
        points[index] = place
    points[14, 1] = 200 + 10 * (1 + np.sin(number))
    return (points + 4) * BOX[2] / 328 + np.array(BOX[:2])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, Path]:
    """(training folder, avatars): two clips whose crops tell their number by their grey; frame 5 is not usable."""
    folder = tmp_path_factory.mktemp("prepared")
    work, target = folder / "work", folder / "avatars" / "anna"
    rng = np.random.default_rng(0)
    for at, name in enumerate(("one", "two")):
        clip = work / "clips" / name
        (clip / "crops").mkdir(parents=True)
        usable = np.ones(COUNT, bool)
        usable[5] = False
        looks = np.ones((COUNT, 579), np.float32) * (np.arange(COUNT)[:, None] / 50)
        looks[CUT:] += 100 * (at == 0)
        points = np.stack([landmarks(i) for i in range(COUNT)]).astype(np.float32)
        boxes = np.tile(np.array(BOX), (COUNT, 1))
        write_frames(clip, Frames(boxes, points, np.ones(COUNT, int), usable, looks, np.array([320, 240])))
        for number in np.flatnonzero(usable):
            grey = np.full((320, 320, 3), number + COUNT * at, np.uint8)
            cv2.imwrite(str(crop_file(clip, number)), grey, [cv2.IMWRITE_JPEG_QUALITY, 100])
        write_sound(clip, rng.normal(0, 0.1, COUNT * 640).astype(np.float32))
    (work / "prepared.yaml").write_text("id: anna\nclips: [one, two]\nfindings: []\n")
    target.mkdir(parents=True)
    write_footage(target / "footage.mp4", [np.full((240, 320, 3), 90, np.uint8)] * 4, exact=True)
    write_boxes(target / "boxes.csv", [BOX] * 4)
    stated = {"id": "anna", "name": "Anna", "licence": "test", "provenance": "test", "loop": "pingpong"}
    files = {"footage": "footage.mp4", "boxes": "boxes.csv", "unet": "unet.onnx", "encoder": "encoder.onnx"}
    write_facts(target / "avatar.yaml", {**stated, **files}, "made by the test")
    return work, target.parent


@pytest.fixture(scope="module")
def source(prepared) -> VideoSource:
    rows = [np.arange((COUNT + 15) * 512).reshape(-1, 512) % 997 + 1 + i for i in range(2)]
    return VideoSource(training.read_clips(prepared[0]), [part.astype(np.float16) for part in rows], hold_out=1.0)


def test_an_example_is_a_frame_with_its_audio_and_another_of_its_shot(source):
    rng, seen = np.random.default_rng(0), set()
    for _ in range(200):
        example = source.example(rng)
        frame, other = int(example.targets[0, 0, 0, 0]), int(example.reference[0, 0, 0])
        seen.add(frame)
        assert (example.current == frame).all() and abs(frame - other) >= APART
        assert frame // COUNT == other // COUNT and (frame // COUNT or (frame >= CUT) == (other >= CUT))
        at, number = divmod(frame, COUNT)
        rows = np.arange((COUNT + 15) * 512).reshape(-1, 512)[number : number + 16] % 997 + 1 + at
        audio = example.audio.reshape(16, 512)
        begin = int((audio[:, 0] == 0).sum())  # a few become the beginning of a speech
        assert begin <= 8 and (audio[:begin] == 0).all()
        np.testing.assert_array_equal(audio[begin:], rows[begin:].astype(np.float16))
    assert len(seen) > 80 and max(seen) < 2 * COUNT - 25 and not seen & {5, 105}
    assert source.held_out.tolist() == list(range(2 * COUNT - 25, 2 * COUNT))


def test_the_mouth_is_masked_in_the_current_frame(source):
    pictures, audio, targets = batch_of(
        [source.example(np.random.default_rng(1)) for _ in range(3)], source.regions.mask
    )
    assert pictures.shape == (3, 6, 320, 320) and audio.shape == (3, 32, 16, 16) and targets.shape == (3, 3, 320, 320)
    assert (pictures[:, 3:, 5:310, 5:315] == 0).all() and (pictures[:, 3:, :5] > 0).all()


def test_landmarks_give_the_face_regions_and_the_opening(source):
    rows, columns = source.regions.mouth
    assert rows.start <= 160 and 240 <= rows.stop <= 260 and 100 <= columns.start <= 120 and 200 <= columns.stop <= 220
    assert source.regions.chin[0].stop >= 300
    assert np.abs(np.array(source.regions.centre) - (200, 160)).max() < 3
    opening = source.spoken.curves[:, 0]
    expected = 1 + np.sin(np.delete(np.arange(COUNT), 5))
    assert np.corrcoef(opening[: COUNT - 1], expected)[0, 1] > 0.95


def test_too_few_frames_are_refused(prepared):
    clips = training.read_clips(prepared[0])
    rows = [np.zeros((COUNT + 15, 512), np.float16)] * 2
    with pytest.raises(SourceError, match="0 frames are left to train on: film more, or hold out less"):
        VideoSource(clips, rows, hold_out=60)


def test_training_stops_continues_and_leaves_an_avatar(prepared, monkeypatch):
    work, avatars = prepared
    for name, steps in (("AUDIO_PRETRAINING", 2), ("LOW_RESOLUTION_PRETRAINING", 1)):
        monkeypatch.setattr(training, name, steps)
    monkeypatch.setattr("lipsync_studio.training.audio_branch_pretraining.BATCH", 4)
    monkeypatch.setattr("lipsync_studio.training.low_resolution_pretraining.FACES", 1)
    monkeypatch.setitem(training.FACES, "cpu", 1)
    measured, handler = [], signal.getsignal(signal.SIGINT)

    def measure(*arguments) -> None:
        assert signal.getsignal(signal.SIGINT) is handler  # a Ctrl-C that ends it
        measured.append(arguments)

    monkeypatch.setattr(training, "measure", measure)
    training.train_avatar(work, samples=2, scratch=True, hold_out=1, device="cpu", avatars=avatars)
    first = torch.load(work / "unet.pt", weights_only=True)
    assert first["step"] == 2
    monkeypatch.setattr(training, "pretrain_low_resolution", lambda *_: pytest.fail("began again"))
    training.train_avatar(work, samples=3, hold_out=1, device="cpu", avatars=avatars)
    state = torch.load(work / "unet.pt", weights_only=True)
    assert state["step"] == 3 and any((state["state_dict"][k] != v).any() for k, v in first["state_dict"].items())

    avatar, speech, folder = measured[-1]
    assert avatar == AvatarSource.read(avatars / "anna") and folder == work
    assert (avatars / "anna" / "encoder.onnx").read_bytes() == (training.ENCODER / "encoder.onnx").read_bytes()
    assert [path.name for path in speech] == ["held_out.wav"]
    network = training.UNet("half")
    network.load_state_dict(state["state_dict"])
    inputs = {
        "input": np.random.default_rng(0).random((1, 6, 320, 320), np.float32),
        "audio": np.random.default_rng(1).random((1, 32, 16, 16), np.float32),
    }
    with torch.no_grad():
        expected = network.eval()(*map(torch.from_numpy, inputs.values())).numpy()
    model = expand_weights(onnx.load(avatars / "anna" / "unet.onnx"))
    got = onnxruntime.InferenceSession(model.SerializeToString()).run(["output"], inputs)[0]
    np.testing.assert_allclose(got, expected, atol=5e-3, rtol=0)  # weights are stored as FP16

    with pytest.raises(SourceError, match="does not have full width: give the other --width, or remove"):
        training.train_avatar(work, width="full", samples=4, device="cpu", hold_out=1, avatars=avatars)


def test_half_width_begins_with_the_demos_network_and_continues(prepared, tmp_path, monkeypatch):
    work, avatars = tmp_path / "work", prepared[1]
    shutil.copytree(prepared[0], work, ignore=shutil.ignore_patterns("*.pt"))
    monkeypatch.setitem(training.FACES, "cpu", 1)
    monkeypatch.setattr(training, "measure", lambda *_: None)
    for phase in ("pretrain_audio_branch", "pretrain_low_resolution"):
        monkeypatch.setattr(training, phase, lambda *_: pytest.fail("the demo's network knows it already"))
    demo, states = training.read_unet(training.DEMO).state_dict(), []
    for samples in (1, 2):
        training.train_avatar(work, samples=samples, hold_out=1, device="cpu", avatars=avatars)
        states.append(torch.load(work / "unet.pt", weights_only=True))
    first, second = (state["state_dict"] for state in states)
    assert [state["step"] for state in states] == [1, 2] and first.keys() == demo.keys()
    moved = max((first[name] - weight).abs().max().item() for name, weight in demo.items())
    assert 0 < moved < 1e-3, "one small step away from the demo's"
    assert any((second[name] != weight).any() for name, weight in first.items())


def test_held_out_frames_are_not_the_other_frame_of_trained_ones(source):
    rng, trained = np.random.default_rng(0), range(2 * COUNT - 75, 2 * COUNT - 25)
    others = {int(source.example_of(frame, rng).reference[0, 0, 0]) for frame in trained for _ in range(3)}
    assert len(others) > 25 and max(others) < 2 * COUNT - 25


def coarse(network, pictures, audio) -> torch.Tensor:
    """In place of `low_resolution_features`, which takes seconds on a busy machine."""
    small = torch.nn.functional.avg_pool2d(pictures, 4)
    return network.inc(small).repeat_interleave(len(audio) // len(pictures), 0) + network.audio_model(audio).mean()


@pytest.mark.parametrize("stops", [(1,), (3,), (4,), (1, 2, 3, 4), (2, 4)])
def test_ctrl_c_again_and_again_loses_nothing_of_the_pretraining(source, tmp_path, monkeypatch, stops):
    """Stopped after those of its 5 steps (3 for the sound, 2 with small pictures), it ends as if it never was."""
    monkeypatch.setattr("lipsync_studio.training.audio_branch_pretraining.BATCH", 4)
    monkeypatch.setattr("lipsync_studio.training.low_resolution_pretraining.FACES", 1)
    monkeypatch.setattr("lipsync_studio.training.low_resolution_pretraining.low_resolution_features", coarse)
    monkeypatch.setattr(training, "AUDIO_PRETRAINING", 3)
    monkeypatch.setattr(training, "LOW_RESOLUTION_PRETRAINING", 2)
    ended = []
    monkeypatch.setattr(training, "train", lambda network, *_, **__: ended.append(network.state_dict()))
    device, done, handler = torch.device("cpu"), [], signal.getsignal(signal.SIGINT)
    shown = Console(file=StringIO(), width=300)
    monkeypatch.setattr("lipsync_studio.training.avatar.notes", shown)
    optimize = runs.optimize

    def counting(*arguments) -> None:
        optimize(*arguments)
        done.append(1)
        if len(done) in stops:
            signal.getsignal(signal.SIGINT)(signal.SIGINT, None)

    for module in ("audio_branch_pretraining", "low_resolution_pretraining"):
        monkeypatch.setattr(f"lipsync_studio.training.{module}.optimize", counting)
    for _ in range(len(stops) + 1):
        torch.manual_seed(0)
        with training.Stop() as stop:
            training.train_network(source, "half", 8, tmp_path / "stopped", device, stop, scratch=True)
        assert signal.getsignal(signal.SIGINT) is handler  # so that Ctrl-C ends what comes after the training
    assert len(done) == 5 and shown.file.getvalue().count("The same command continues.") == len(stops)
    torch.manual_seed(0)
    with training.Stop() as stop:
        training.train_network(source, "half", 8, tmp_path / "whole", device, stop, scratch=True)
    assert len(done) == 10
    continued, whole = ended
    assert all(torch.equal(continued[name], value) for name, value in whole.items())


def test_pretraining_of_another_width_is_not_continued(source, tmp_path):
    half, full = (training.UNet(width).audio_model for width in ("half", "full"))
    stage, _ = stages_of(tmp_path, 1, 1)
    stage.save(1, {"branch": half}, now=True)
    with pytest.raises(SourceError, match="give the other --width"):
        stage.restore(3, {"branch": full})


@pytest.mark.parametrize(
    ("done", "total", "later", "says"),
    [
        (0, 10, 0, "left -:--:--"),
        (5, 10, 0, "left 0:00:10"),
        (5, 10, 100, "left about 0:03:30"),
        (10, 10, 1800, "left about 1:00:00"),
        (10, 10, 0, "left 0:00:00"),
    ],
)
def test_the_time_left_is_for_all_stages(done, total, later, says):
    task = SimpleNamespace(completed=done, total=total, speed=0.5 if done else None, finished_speed=None)
    assert runs.TimeLeft(later).render(task).plain == says


def test_a_folder_that_was_not_prepared_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"prepared\.yaml is missing: run lipsync avatars prepare"):
        training.train_avatar(tmp_path)
    with pytest.raises(SourceError, match="width is 'quarter': it must be full or half"):
        training.train_avatar(tmp_path, width="quarter")
