"""Preparation of footage from any file: frames, sound, crop boxes, idle loop, and findings on what is wrong."""

from __future__ import annotations

import importlib.util
import re
import shutil
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from lipsync_client.cli.main import app
from lipsync_server import home
from lipsync_server.repository.source import AvatarSource, SourceError, face_crop
from lipsync_studio.evaluation.metrics import envelope
from lipsync_studio.faces import finder as faces
from lipsync_studio.faces import landmarks
from lipsync_studio.faces.downloaded_file import cached_file
from lipsync_studio.prepare.avatar_folder import Attribution, write_footage
from lipsync_studio.prepare.checks import (
    offset_findings,
    offset_of,
    picture_findings,
    size_findings,
    speech_findings,
    usable_frames,
)
from lipsync_studio.prepare.crop_boxes import BRIDGE_TOP, LEFT, NOSE_TIP, RIGHT, raw_boxes, smooth_boxes
from lipsync_studio.prepare.idle_loop import choose_loop, look
from lipsync_studio.prepare.inputs import open_input
from lipsync_studio.prepare.prepare import prepare_avatar
from lipsync_studio.prepare.training_folder import Frames, read_clips
from lipsync_studio.prepare.video import frames_of, sound_of, upright
from synctalk_dataset import FRAMES, write_dataset


def write_video(
    path: Path, levels: list[int], times: list[int], rate: int = 25, sound: np.ndarray | None = None
) -> Path:
    """Plain grey frames, shown at those milliseconds; sound at 16 kHz, without loss."""
    with av.open(str(path), "w") as file:
        picture = file.add_stream("libx264", rate=rate, options={"crf": "1"})
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        picture.codec_context.time_base = Fraction(1, 1000)
        track = file.add_stream("flac", rate=16_000, layout="mono") if sound is not None else None
        for level, time in zip(levels, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="bgr24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(picture.encode(frame))
        file.mux(picture.encode())
        if track is not None and sound is not None:
            samples = av.AudioFrame.from_ndarray((sound[None] * 32767).astype(np.int16), format="s16", layout="mono")
            samples.rate, samples.pts = 16_000, 0
            file.mux(track.encode(samples))
            file.mux(track.encode())
    return path


def levels_of(path: Path) -> list[int]:
    """The frames' grey levels, to the nearest of 0, 10, 20, .."""
    return [round(float(frame.mean()) / 10) * 10 for frame in frames_of(path)]


def test_every_frame_is_the_videos_nearest_at_25_a_second(tmp_path):
    thirty = write_video(
        tmp_path / "30.mkv", [10 * (i + 1) for i in range(12)], [round(i * 1000 / 30) for i in range(12)]
    )
    assert levels_of(thirty) == [10, 20, 30, 50, 60, 70, 80, 90, 110, 120]
    slow = write_video(tmp_path / "slow.mkv", [50, 100, 150], [0, 80, 160])
    assert levels_of(slow) == [50, 100, 100, 150, 150]
    uneven = write_video(
        tmp_path / "uneven.mkv", [50, 100, 150, 200], [500, 540, 660, 700]
    )  # it begins late, and has a hole
    assert levels_of(uneven) == [50, 100, 100, 150, 150, 200]


def test_frames_have_square_pixels_even_sides_and_are_not_too_large():
    def decoded(height: int, width: int) -> av.VideoFrame:
        return av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="bgr24")

    assert upright(decoded(287, 351)).shape == (286, 350, 3)
    assert upright(decoded(48, 40), pixel=2.0).shape == (48, 80, 3)
    assert upright(decoded(2160, 3840)).shape == (1080, 1920, 3)


def test_a_dataset_with_odd_sides_becomes_footage(tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    for path in (dataset / "full_body_img").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path))[:-1, :-1])
    assert write_footage(tmp_path / "footage.mp4", open_input(dataset).frames(), exact=False) == FRAMES
    with av.open(str(tmp_path / "footage.mp4")) as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == (318, 238)


def test_sound_belongs_to_the_frames_and_can_be_moved(tmp_path):
    click = np.zeros(16_000, np.float32)
    click[6400] = 0.9  # at 0.4 s, with frame 10
    path = write_video(tmp_path / "click.mkv", [50] * 25, [40 * i for i in range(25)], sound=click)
    assert np.argmax(sound_of(path, 25)) == 6400 and len(sound_of(path, 25)) == 25 * 640
    assert np.argmax(sound_of(path, 25, late=0.1)) == 4800
    assert np.argmax(sound_of(path, 30, late=-0.1)) == 8000 and len(sound_of(path, 30)) == 30 * 640
    mute = write_video(tmp_path / "mute.mkv", [50] * 5, [40 * i for i in range(5)])
    assert not sound_of(mute, 5).any()


def head(left: float, top: float, width: float) -> np.ndarray:
    """Landmarks [468,2] whose crop box is (left, top, width)."""
    points = np.full((468, 2), left + width / 2)
    points[LEFT, 0], points[RIGHT, 0] = left, left + width
    points[BRIDGE_TOP, 1], points[NOSE_TIP, 1] = top - 3, top + 7
    return points


def test_boxes_are_steady_across_spikes_gaps_and_cuts():
    rng = np.random.default_rng(0)
    points = np.stack([head(100 + 0.5 * i, 60, 150) for i in range(80)] + [head(300, 90, 150) for _ in range(40)])
    trembling = points + rng.normal(0, 1.0, points.shape)
    trembling[20] += 90  # another face, for a frame
    trembling[30:35] = np.nan
    boxes = smooth_boxes(raw_boxes(trembling.astype(np.float32)))
    expected = raw_boxes(points.astype(np.float32))
    assert np.abs(boxes[3:77] - expected[3:77]).max() < 3
    assert np.abs(boxes[[79, 80]] - expected[[79, 80]]).max() < 3  # at once after the cut
    assert np.abs(np.diff(boxes[:, 2])).max() <= 1  # a face does not breathe
    assert smooth_boxes(np.full((3, 3), np.nan)).tolist() == [[0, 0, 0]] * 3


def test_the_loop_rests_and_its_end_meets_its_beginning():
    phase = np.arange(400) * 2 * np.pi / 100  # a head that sways, with a period of 100 frames
    looks = 60 * np.stack([np.cos(phase), np.sin(phase)] * 24, 1).astype(np.float32)
    unrest, usable = np.ones(400), np.ones(400, bool)
    unrest[150:290] = 0
    loop = choose_loop(looks, unrest, usable)
    assert (loop.kind, loop.frames) == ("forward", 100) and 150 <= loop.first <= 190
    usable[200:205] = False
    loop = choose_loop(looks, unrest, usable)
    assert loop.first + loop.frames <= 200 or loop.first >= 205
    looks[130:] += 3000  # a cut
    loop = choose_loop(looks, np.zeros(400), np.ones(400, bool))
    assert loop.first > 130 and loop.frames >= 200


def frames(count: int = 300, faces: int = 1, box=(60, 40, 170), size=(360, 288)) -> Frames:
    boxes = np.tile(np.array(box), (count, 1))
    points = np.tile(head(*box), (count, 1, 1)).astype(np.float32)
    return Frames(
        boxes, points, np.full(count, faces), np.ones(count, bool), np.zeros((count, 3), np.float32), np.array(size)
    )


def test_picture_findings_name_the_frames():
    good = frames()
    assert picture_findings("a", good) == [] and size_findings(good.boxes[:, 2]) == []
    hidden = frames()
    hidden.points[120:134] = np.nan
    hidden.faces[120:134] = 0
    assert picture_findings("a", hidden) == ["a: no face in frames 120-133; left out"]
    hidden.faces[[7, 9]] = 2
    assert "more than one face in frames 7 and 9" in picture_findings("a", hidden)[1]
    assert np.flatnonzero(~usable_frames(hidden.faces, hidden.points, hidden.boxes, hidden.size)).tolist() == [
        7, 9, *range(120, 134),
    ]  # fmt: skip
    assert "edge cuts the face in frames 0-299" in picture_findings("a", frames(box=(200, 40, 170)))[0]
    assert (
        "no face in any of its 300 frames"
        in picture_findings("a", hidden._replace(points=np.full_like(hidden.points, np.nan)))[0]
    )
    assert "too small: 50 pixels" in size_findings(frames(box=(60, 40, 50)).boxes[:, 2])[0]
    assert "look blurred" in size_findings(frames(box=(60, 40, 100)).boxes[:, 2])[0]


def test_too_little_speech_is_a_finding():
    assert "no sound" in speech_findings(0, 0)[0]
    assert "too little speech: 7 s" in speech_findings(60, 7)[0]
    assert "little speech: 80 s" in speech_findings(80, 80)[0]
    assert speech_findings(200, 180) == []


@pytest.mark.parametrize("late", [-5, 0, 8])
def test_late_or_early_sound_is_a_finding_that_says_the_offset(late):
    speech, rate = np.zeros(30 * 16_000, np.float32), 16_000
    rng = np.random.default_rng(1)
    for begin in np.sort(rng.uniform(0.5, 29, 110)):  # syllables
        at = int(begin * rate)
        piece = np.hanning(4800)[: len(speech) - at]
        speech[at : at + len(piece)] += (piece * rng.normal(0, 0.3, len(piece))).astype(np.float32)
    lips = 0.3 * envelope(speech, 750) + rng.normal(0, 0.02, 750)
    sound = np.roll(speech, late * 640)
    offset = offset_of([lips], [sound])
    assert offset is not None and abs(offset.frames - late) < 0.5
    said = offset_findings(offset)
    if late:
        assert ("late" if late > 0 else "early") in said[0]
        seconds = float(said[0].split("--sound-offset ")[1].split()[0])
        assert abs(seconds - late / 25) < 0.03
    else:
        assert said == []


needs_faces = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None
    or not (landmarks.cached_file().is_file() and cached_file(faces.MEMBER).is_file()),
    reason="the face networks are not in the cache: lipsync avatars prepare downloads them the first time",
)
COUNT = 60


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """The demo's footage with the speech sample, as a camera would give it; 14 frames show a wall."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    source = AvatarSource.read(home.AVATARS / "demo")
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=25, options={"crf": "12", "preset": "veryfast"})
        sound = file.add_stream("aac", rate=16_000, layout="mono")
        for number, picture in zip(range(COUNT), source.frames(), strict=False):
            if not number:
                video.height, video.width = picture.shape[:2]
            shown = np.full_like(picture, 120) if 40 <= number < 54 else picture
            file.mux(video.encode(av.VideoFrame.from_ndarray(shown, format="bgr24")))
        file.mux(video.encode())
        for first in range(0, COUNT * 640, 1024):
            part = (home.read_sample()[first : first + 1024] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(part[None], format="s16", layout="mono")
            frame.rate, frame.pts = 16_000, first
            file.mux(sound.encode(frame))
        file.mux(sound.encode())
    return path


@pytest.fixture(scope="module")
def prepared(film, tmp_path_factory) -> tuple[Path, Path, list[str]]:
    """Source folder, training folder, findings."""
    folder = tmp_path_factory.mktemp("prepared")
    target, work = folder / "avatars" / "anna", folder / "work"
    return target, work, prepare_avatar([film], target, work)


@needs_faces
def test_a_film_becomes_crops_boxes_sound_and_an_idle_loop(film, prepared):
    target, work, findings = prepared
    assert any("no face in frames 40-53; left out" in finding for finding in findings)
    (clip,) = read_clips(work)
    seen = [*range(40), *range(54, COUNT)]
    assert np.flatnonzero(clip.frames.usable).tolist() == seen and np.isfinite(clip.frames.points[seen]).all()
    demo = AvatarSource.read(home.AVATARS / "demo")
    own = np.array(demo.read_boxes()[:COUNT])[seen]
    middle = clip.frames.boxes[seen, 0] + clip.frames.boxes[seen, 2] / 2
    assert np.abs(middle - own[:, 0] - own[:, 2] / 2).max() < 0.1 * own[0, 2]  # the same face
    pictures = list(frames_of(film))
    expected = face_crop(pictures[5], tuple(clip.frames.boxes[5].tolist()))
    assert np.abs(clip.crop(5).astype(int) - expected).mean() < 2
    assert len(clip.sound) == COUNT * 640 and np.corrcoef(clip.sound, home.read_sample()[: COUNT * 640])[0, 1] > 0.95
    assert cv2.imread(str(work / "preview.png")).shape[1] == 1440
    facts = yaml.safe_load((target / "avatar.yaml").read_text())
    assert facts["id"] == "anna" and {p.name for p in target.iterdir()} == {"avatar.yaml", "footage.mp4", "boxes.csv"}
    for network in ("unet", "encoder"):
        (target / f"{network}.onnx").touch()
    source = AvatarSource.read(target)
    assert len(source.read_boxes()) == len(list(source.frames())) <= 40


@needs_faces
def test_preparing_again_detects_nothing_and_keeps_network_and_facts(film, prepared, monkeypatch):
    target, work, findings = prepared
    (target / "unet.onnx").write_bytes(b"trained")
    facts = yaml.safe_load((target / "avatar.yaml").read_text())
    stated = {"licence": "agreed on paper", "provenance": "Anna, in May", "preset": "exact", "jpeg_quality": 90}
    (target / "avatar.yaml").write_text(yaml.safe_dump(facts | stated))
    with pytest.raises(SourceError, match="exists already"):
        prepare_avatar([film], target, work)
    monkeypatch.setattr(faces.FaceFinder, "detect", lambda *_: pytest.fail("tracked the face again"))
    attribution = Attribution(provenance="Anna, in June")
    assert prepare_avatar([film], target, work, attribution=attribution, replace=True) == findings
    assert (target / "unet.onnx").read_bytes() == b"trained"
    again = yaml.safe_load((target / "avatar.yaml").read_text())
    assert again == facts | stated | {"provenance": "Anna, in June"}


@needs_faces
def test_the_same_command_continues_after_a_stop_at_the_preview(film, prepared, tmp_path, monkeypatch):
    work = Path(shutil.copytree(prepared[1], tmp_path / "work"))

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lipsync_studio.prepare.prepare.preview", interrupted)
        prepare_avatar([film], tmp_path / "anna", work)
    prepare_avatar([film], tmp_path / "anna", work)
    assert (tmp_path / "anna" / "avatar.yaml").is_file() and (work / "prepared.yaml").is_file()


@needs_faces
def test_interrupted_face_tracking_continues(film, tmp_path, monkeypatch):
    target, work, seen = tmp_path / "anna", tmp_path / "work", []
    detect = faces.FaceFinder.detect

    def interrupted(self, picture):
        seen.append(1)
        if len(seen) == 31:
            raise KeyboardInterrupt
        return detect(self, picture)

    monkeypatch.setattr(faces.FaceFinder, "detect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_avatar([film], target, work)
    prepare_avatar([film], target, work)
    assert len(seen) == COUNT + 1  # the interrupted frame is detected again


@needs_faces
def test_a_dataset_is_prepared_with_its_own_boxes(tmp_path):
    demo = home.AVATARS / "demo"
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    for name in ("footage.mp4", "boxes.csv"):
        shutil.copy(demo / name, dataset)
    boxes = AvatarSource.read(demo).read_boxes()[:12]
    (dataset / "boxes.csv").write_text("x,y,size\n" + "\n".join(f"{x},{y},{size}" for x, y, size in boxes))
    findings = prepare_avatar([dataset], tmp_path / "anna", tmp_path / "work")
    (clip,) = read_clips(tmp_path / "work")
    assert [tuple(box) for box in clip.frames.boxes.tolist()] == boxes and clip.frames.usable.all()
    assert any("no sound" in finding for finding in findings)


def test_a_file_that_is_not_a_video_is_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "text.mp4").write_text("no")
    for path, sentence in (
        (tmp_path / "text.mp4", "cannot be read as a video"),
        (tmp_path / "no.mp4", "there is no file"),
        (tmp_path, "is a folder without crop boxes"),
    ):
        with pytest.raises(SourceError, match=sentence):
            prepare_avatar([path], tmp_path / "avatars" / "anna", tmp_path / "work")
    with pytest.raises(SourceError, match="cannot be used"):
        prepare_avatar([tmp_path / "text.mp4"], tmp_path / "avatars" / "composite", tmp_path / "work")
    assert not (tmp_path / "avatars").exists() and not (tmp_path / "work").exists()


@pytest.mark.parametrize("avatar_id", ["", ".", "../x", "/tmp/x", "x/y"])
def test_an_id_that_leads_elsewhere_replaces_no_folder(tmp_path, avatar_id):
    """As with `--id "$ID"` where ID is not set."""
    (tmp_path / "avatars" / "ben").mkdir(parents=True)
    command = ["avatars", "prepare", "film.mp4", "--id", avatar_id, "--avatars", str(tmp_path / "avatars")]
    outcome = CliRunner().invoke(app, [*command, "--replace"])
    assert outcome.exit_code == 1
    assert re.search(r"id .* cannot be used", outcome.stderr)
    assert (tmp_path / "avatars" / "ben").is_dir()


def test_a_look_differs_for_a_moved_head():
    picture = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    picture = cv2.GaussianBlur(picture, None, 4)
    here, moved = look(picture, (50, 60, 80)), look(picture, (58, 60, 80))
    assert np.linalg.norm(here - moved) > 100 and np.linalg.norm(here - look(picture, (50, 60, 80))) == 0
