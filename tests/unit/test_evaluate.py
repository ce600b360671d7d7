"""Evaluation of an avatar: each metric on material whose answer is known, and the pipeline without a server."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from test_package_avatar import hearing_repository, write_source

import speech
from lipsync_composite.segments import Rect
from lipsync_mel import mel, timeline
from lipsync_server import home
from lipsync_server.pipeline import LocalPipeline
from lipsync_server.repository.package import package_avatar
from lipsync_server.repository.source import AvatarSource
from lipsync_studio.cli.evaluate import evaluate
from lipsync_studio.evaluation import evaluate as evaluation
from lipsync_studio.evaluation import metric_tables, metrics, voice_activity
from lipsync_studio.evaluation.contact_sheets import liveliest, mouth_sheet, write_sheets
from lipsync_studio.evaluation.mouth_meter import MouthMeter, MouthShape
from lipsync_studio.evaluation.patch_metrics import Footage, PatchMetrics
from lipsync_studio.evaluation.recording import Recording, RenderedSpeech, joined
from lipsync_studio.evaluation.session import EvaluationSession
from lipsync_studio.faces import landmarks

PAUSED = RenderedSpeech("paused", np.zeros(0, np.float32), (("pau", 0.4), ("b", 0.5), ("aa", 0.9), ("pau", 1.3)))


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A model repository of its own, with a toy avatar."""
    folder = tmp_path_factory.mktemp("evaluate")
    repository = hearing_repository(folder / "model_repository")
    package_avatar(AvatarSource.read(write_source(folder / "toy")), repository)
    return repository


@pytest.fixture(scope="module")
def pipeline(repository) -> LocalPipeline:
    return LocalPipeline(repository, "toy")


class TwoDots:
    """Stands for the landmark network: a face whose lips' inner edges are the red and the blue dot of the picture."""

    def points(self, picture, region) -> tuple[np.ndarray, float]:
        result = np.zeros((468, 2))
        result[landmarks.EYES[1]] = (100, 0)
        result[landmarks.CORNERS[0]], result[landmarks.CORNERS[1]] = (90, 80), (130, 80)
        result[landmarks.UNDER_NOSE], result[landmarks.UNDER_LIP] = (110, 60), (110, 96)
        upper, lower = (np.argwhere((picture == colour).all(2)) for colour in ((0, 0, 255), (255, 0, 0)))
        for pair in landmarks.INNER_LIPS if len(upper) and len(lower) else ():
            result[pair[0]], result[pair[1]] = upper[0, ::-1], lower[0, ::-1]
        return result, 10.0

    def find(self, picture, box):
        return self.points(picture, None)[0], landmarks.Region(110, 80, 150, 0)


# --- the pipeline without a server ---


def test_chunked_frames_equal_whole_ones_to_the_byte(pipeline):
    babble = speech.babble(640 * 40 + 1)
    whole = list(pipeline.render(babble))
    assert len(whole) == 41
    assert [frame.position for frame in whole] == list(range(41))
    assert len({frame.jpeg for frame in whole}) > 20  # the speech is seen in the pictures
    for chunk in (1, 7):
        for one, other in zip(whole, pipeline.render(babble, chunk=chunk), strict=True):
            assert one.jpeg == other.jpeg
            np.testing.assert_array_equal(one.mouth, other.mouth)


def test_a_slice_gives_the_features_of_the_whole_speech(pipeline):
    babble = np.concatenate([speech.babble(640 * 40), np.zeros(timeline.SAMPLES_AFTER, np.float32)])
    starts, inside = timeline.row_windows(20, 5, len(babble))
    windows = mel.encoder_windows(mel.load_filterbank(), babble, 0, len(babble), starts, inside)
    rows = windows.reshape(20, -1)[:, :512]  # what the toy encoder gives
    expected = np.stack([rows[i : i + 16].reshape(32, 16, 16) for i in range(5)])
    np.testing.assert_array_equal(pipeline.features(babble, 20, 5), expected)


def test_footage_begins_where_it_is_told(pipeline):
    silence = np.zeros(640 * 3, np.float32)
    from_two = [frame.jpeg for frame in pipeline.render(silence, footage_start=2)]
    assert from_two[0] == list(pipeline.render(np.zeros(640 * 5, np.float32)))[2].jpeg


def test_an_avatar_that_is_not_there_is_refused_by_name(pipeline):
    with pytest.raises(ValueError, match="avatar 'nobody' is not in"):
        LocalPipeline(pipeline.folder.parents[2], "nobody")
    with pytest.raises(ValueError, match="chunk is 33: it must be from 1 to 32"):
        next(pipeline.render(np.zeros(640, np.float32), chunk=33))


# --- sound ---


def test_the_envelope_follows_bursts_at_their_time():
    sound = np.zeros(640 * 50, np.float32)
    sound[640 * 20 : 640 * 30] = 0.3 * np.sin(np.arange(6400))
    loud = metrics.envelope(sound, 50)
    np.testing.assert_allclose(loud[22:29], 1, atol=0.05)
    assert loud[:18].max() < 0.01 and loud[33:].max() < 0.01
    half = loud > 0.5 ** (2 * metrics.LOUDNESS)  # half the amplitude
    assert abs(np.flatnonzero(half).mean() - 25) < 0.6


def test_a_known_delay_is_found():
    wanted = np.convolve(np.random.default_rng(1).standard_normal(300), np.hanning(9), "same")
    for delay in (-4, 0, 3):
        r, lag, r0 = metrics.best_lag(np.roll(wanted, delay) * 5 - 2, wanted)
        assert abs(lag - delay) < 0.1 and r > 0.97
        assert (r0 > 0.97) == (delay == 0)
    between = np.interp(np.arange(300) - 0.5, np.arange(300), wanted)
    assert abs(metrics.best_lag(between, wanted)[1] - 0.5) < 0.1


def test_pauses_are_the_long_quiet_runs_without_their_ends():
    sound = speech.babble(640 * 100)
    sound[:] = 0.1 * np.sin(np.arange(len(sound)) * 0.4)
    sound[640 * 20 : 640 * 40] = 0
    sound[640 * 60 : 640 * 65] = 0  # too short
    ((first, stop),) = metrics.pauses(sound, 100)
    assert 22 <= first <= 26 and 34 <= stop <= 38


def test_phoneme_spans_are_the_frames_nearest_to_them():
    spans = metrics.phone_spans(PAUSED.phones, {"b", "pau"}, 100)
    assert spans == [(0, 11), (10, 13), (22, 33)]
    closed = np.zeros(40, bool)
    closed[12] = True
    assert metrics.share_reached(closed, spans) == pytest.approx(1 / 3)


def test_joined_speeches_keep_their_phonemes_in_time():
    one = RenderedSpeech("a", np.ones(16_000, np.float32), (("aa", 0.25), ("b", 1.0)))
    both = joined("both", [one, one], before=0.5, after=0.25)
    assert [name for name, _ in both.phones] == ["pau", "aa", "b", "pau"] * 2
    assert [end for _, end in both.phones] == [0.5, 0.75, 1.5, 1.75, 2.25, 2.5, 3.25, 3.5]
    assert np.flatnonzero(both.audio)[[0, -1]].tolist() == [8000, 51_999] and len(both.audio) == 56_000


# --- pictures ---


def test_picture_errors_have_their_known_values():
    a = np.random.default_rng(2).integers(20, 230, (64, 64, 3), np.uint8)
    assert metrics.psnr(a, a + np.uint8(5)) == pytest.approx(20 * np.log10(255 / 5))
    assert metrics.ssim(a, a) == pytest.approx(1) and metrics.gmsd(a, a) == pytest.approx(0)
    picture = np.zeros((96, 96, 3), np.uint8)
    cv2.ellipse(picture, (48, 48), (30, 14), 0, 0, 360, (60, 60, 200), -1)
    cv2.rectangle(picture, (34, 40), (62, 47), (240, 240, 240), -1)
    blurs = [cv2.GaussianBlur(picture, (0, 0), sigma) for sigma in (0.6, 1.5, 4)]
    assert metrics.ssim(picture, picture) > metrics.ssim(picture, blurs[0]) > metrics.ssim(picture, blurs[2])
    errors = [metrics.gmsd(picture, blurred) for blurred in blurs]
    assert 0 < errors[0] < errors[1] < errors[2] and errors[2] > 0.1


def test_a_sheet_shows_every_mouth_though_their_sizes_differ():
    sizes = [30 + number % 3 for number in range(11)]
    mouths = [np.full((size, size, 3), 10 + 20 * number, np.uint8) for number, size in enumerate(sizes)]
    sheet = mouth_sheet(SimpleNamespace(mouths=mouths, true_mouths=[]), 0)
    cells = np.concatenate([np.split(row, 8, axis=1) for row in np.split(sheet, 2)])
    assert cells.shape[1:] == (32, 32, 3)
    assert [int(np.median(cell[20:30])) for cell in cells] == [10 + 20 * n for n in range(11)] + [255] * 5


LIPS = (0.5, 0.5, 0.3)  # of the toy's crop box


@pytest.fixture
def footage(pipeline) -> Footage:
    return Footage(pipeline.folder, pipeline.avatar)


def add_frames(footage: Footage, changes) -> PatchMetrics:
    """Frames at footage position 0, each changed by `changes(inside the mask, patch's pixels)`."""
    measured = PatchMetrics(footage, LIPS)
    rect, plain = footage.patch(0)
    mask = footage.mask(0)
    for change in changes:
        picture = plain.astype(np.int16)
        change(Rect(mask.x - rect.x, mask.y - rect.y, mask.width, mask.height), picture)
        measured.add(0, rect, np.clip(picture, 0, 255).astype(np.uint8))
    return measured


def test_plain_footage_has_no_change(footage):
    measured = add_frames(footage, [lambda mask, picture: None] * 3)
    assert measured.outside == 0
    assert measured.movement == measured.largest_block == measured.largest == [0, 0]
    assert measured.flicker == [0]
    assert measured.seam == measured.tint == [0] * 3
    assert all(out == still for out, still in measured.edge_slopes)


def test_a_mask_is_inside_its_patch_wherever_the_box_is(pipeline, tmp_path):
    folder, repository = write_source(tmp_path / "toy", id="lower"), pipeline.folder.parents[2]
    (folder / "boxes.csv").write_text("x,y,size\n" + "\n".join(f"60,{y},100" for y in range(27, 32)))
    package_avatar(AvatarSource.read(folder), repository)
    lower = LocalPipeline(repository, "lower")
    footage = Footage(lower.folder, lower.avatar)
    measured = PatchMetrics(footage, LIPS)
    for position in range(5):
        (patch, pixels), mask = footage.patch(position), footage.mask(position)
        assert patch.x <= mask.x and patch.y <= mask.y
        assert mask.x + mask.width <= patch.x + patch.width and mask.y + mask.height <= patch.y + patch.height
        measured.add(position, patch, pixels)
    assert measured.seam == [0] * 5


def test_a_pixel_outside_the_mask_is_counted(footage):
    def beside(mask: Rect, picture) -> None:
        picture[mask.y + 5, mask.x - 1] += 1

    assert add_frames(footage, [beside, lambda mask, picture: None]).outside == 1


def test_flicker_is_measured_and_steady_movement_is_not_flicker(footage):
    def brighter(levels: int):
        def change(mask: Rect, picture) -> None:
            mask.of(picture)[15:80, 15:80] = 100 + levels

        return change

    trembling = add_frames(footage, [brighter(8 * (i % 2)) for i in range(6)])
    assert trembling.flicker == pytest.approx([16] * 4) and trembling.movement == pytest.approx([8] * 5)
    assert max(trembling.largest_block) == pytest.approx(8) and max(trembling.largest) == 8
    steady = add_frames(footage, [brighter(3 * i) for i in range(6)])
    assert steady.flicker == pytest.approx([0] * 4) and steady.movement == pytest.approx([3] * 5)


def test_a_hard_edge_is_a_stronger_seam_than_a_soft_one(footage):
    def redder(soft: bool):
        def change(mask: Rect, picture) -> None:
            y, x = np.mgrid[: mask.height, : mask.width]
            depth = np.minimum(np.minimum(x, mask.width - 1 - x), np.minimum(y, mask.height - 1 - y))
            weight = np.minimum(depth / 8, 1) if soft else np.ones(depth.shape)
            mask.of(picture)[..., 2] += np.rint(24 * weight).astype(np.int16)

        return change

    hard, soft = (add_frames(footage, [redder(soft)]) for soft in (False, True))
    assert hard.seam[0] == pytest.approx(8, abs=0.1)  # the mean of three colours
    assert soft.seam[0] < hard.seam[0] / 4
    assert hard.tint[0] == pytest.approx(24, abs=0.5)


def face(opening: int) -> np.ndarray:
    """A picture for `TwoDots`: skin, lips, and between them teeth of some height."""
    picture = np.full((160, 240, 3), (150, 180, 230), np.uint8)
    cv2.rectangle(picture, (90, 74), (130, 90), (90, 90, 190), -1)
    if opening:
        cv2.rectangle(picture, (90, 80), (130, 79 + opening), (235, 240, 245), -1)
    picture[78, 95] = (0, 0, 255)
    picture[80 + opening, 95] = (255, 0, 0)
    return picture


def test_opening_and_gap_are_those_of_the_picture():
    box = (60, 30, 100)
    meter = MouthMeter(TwoDots(), [face(0)] * 3 + [face(12)], [box] * 4)
    assert (meter.eyes, meter.rest) == (100, 2)
    assert meter.lips == pytest.approx((0.5, 0.5, 0.4))
    for opening in (0, 2, 9):
        shape = meter.measure(face(opening), box)
        assert shape == pytest.approx((opening, 40, opening))


def test_landmarks_measure_the_demo_avatars_open_mouth():
    if importlib.util.find_spec("ai_edge_litert") is None or not landmarks.cached_file().is_file():
        pytest.skip("the extra `studio` or the landmark network is not installed")
    source = AvatarSource.read(home.AVATARS / "demo")
    frame, box = next(source.frames()), source.read_boxes()[0]
    meter = MouthMeter(landmarks.FaceMesh(), [frame], [box])
    rest = meter.measure(frame, box)
    centre = [round(corner + part * box[2]) for corner, part in zip(box, meter.lips[:2], strict=False)]
    half = round(0.4 * meter.lips[2] * box[2])
    cv2.ellipse(frame, centre, (half + 12, half), 0, 0, 360, (80, 80, 180), -1, cv2.LINE_AA)
    cv2.ellipse(frame, centre, (half, half - 14), 0, 0, 360, (25, 10, 45), -1, cv2.LINE_AA)
    open_ = meter.measure(frame, box)
    assert abs(rest.opening) < 0.1 and rest.gap == 0
    assert open_.opening > 10 and open_.gap > 10


# --- all of it ---


def test_a_recording_of_the_toy_has_every_frame_and_a_clean_patch(pipeline, footage, tmp_path):
    frames = [footage.frame(i) for i in range(5)]
    meter = MouthMeter(TwoDots(), frames, [footage.box(i) for i in range(5)])
    toy_speech = RenderedSpeech("toy", speech.babble(640 * 30), (("pau", 0.4), ("b", 0.5), ("aa", 1.2)))
    drawn = []

    def truth(frame, curves):
        drawn.append(frame)
        return np.full((320, 320, 3), 128, np.uint8)

    recording = EvaluationSession(pipeline, footage, meter, truth).record(toy_speech)
    assert len(recording.shapes) == len(recording.mouths) == len(recording.psnr) == 30
    assert drawn[:10] == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1]  # the toy's footage goes back and forth
    assert recording.patch.outside == 0 and recording.beyond_patch == 0
    assert np.flatnonzero(~recording.speaking()).tolist() == list(range(10))
    assert recording.closures() == [(10, 13)] and recording.pauses() == [(3, 8)]
    rows = metric_tables.speech_rows([recording]) + metric_tables.picture_rows([recording])
    assert all(len(row.values) == 1 for row in rows)
    assert len(recording.landmark_distances()) == len(recording.lip_openings) == 30
    assert np.flatnonzero(np.isfinite(recording.plain_sharpness)).tolist() == [0, 5, 10, 15, 20, 25]
    write_sheets(recording, tmp_path)
    sheet = cv2.imread(str(tmp_path / "toy_mouth.png"))
    height, width = recording.mouths[0].shape[:2]
    assert sheet.shape == (2 * 4 * height, 8 * width, 3)  # four rows of eight, the truth below each


def test_evaluate_prints_its_tables_and_with_json_one_document(repository, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "FaceMesh", TwoDots)
    monkeypatch.setattr(voice_activity, "speech_flags", lambda speech, frames: np.arange(frames) >= 10)
    monkeypatch.setattr(evaluation, "silences", lambda: [RenderedSpeech("silence", np.zeros(640 * 5, np.float32))])
    options = {"repository": repository, "out": tmp_path, "voice": "", "seconds": 1.0}
    evaluate("toy", **options)
    assert "mean opening" in capsys.readouterr().out
    evaluate("toy", **options, as_json=True)
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert "Avatar toy, 240x160" in found["avatar"][0] and "table.md" in printed.err
    assert [table["recordings"] for table in found["tables"]] == [["speech"]] * 3 + [["silence", "speech"]]
    assert {"metric": "frames", "required": "", "values": ["25"]} in found["tables"][0]["rows"]
    assert "|  | must hold | speech |\n|---|---|---|\n| frames |  | 25 |\n" in (tmp_path / "table.md").read_text()


def test_the_sheet_shows_the_liveliest_moment():
    recording = Recording(RenderedSpeech("x", np.zeros(640 * 200, np.float32)), None)
    recording.shapes = [MouthShape(float(100 <= i < 148 and i % 2), 0.0, 0.0) for i in range(200)]
    assert abs(liveliest(recording.curve("opening"), 48) - 100) <= 1


def test_a_sound_without_speech_is_measured_by_its_closed_frames_alone():
    recording = Recording(RenderedSpeech("x", np.full(640 * 40, 0.1, np.float32), (("pau", 1.6),)), None)
    recording.shapes = [MouthShape(2.0 * (i % 4 == 0), 50.0, 0.0) for i in range(40)]
    recording.teeth = [float("nan")] * 40
    values = {row.metric: row.values for row in metric_tables.speech_rows([recording])}
    assert values["all frames with closed lips, %"] == ["75"]
    assert not [metric for metric in values if "phonemes" in metric or "p, b, m" in metric]
