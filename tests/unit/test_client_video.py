"""Writing video files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from test_client_audio import error_against_tone, tone, write

from lipsync_client import AudioError, Frame, Timings, VideoError, read_audio, write_video

COLOURS = [(200, 40, 40), (40, 180, 60), (50, 60, 210)]


def frames(count: int, width: int = 128, height: int = 96) -> Iterator[Frame]:
    for index in range(count):
        jpeg = io.BytesIO()
        Image.new("RGB", (width, height), COLOURS[index % 3]).save(jpeg, "JPEG", quality=95)
        yield Frame(jpeg.getvalue(), index, index / 25, Timings(1, 2, 3, 6))


def rgb(picture: av.VideoFrame) -> np.ndarray:
    """Colours as a player shows them: BT.709, 16..235. Shape = (height, width, 3)."""
    planes = picture.to_ndarray().astype(float)
    height, width = picture.height, picture.width
    luma = (planes[:height] - 16) / 219
    blue, red = ((plane.repeat(2, 0).repeat(2, 1) - 128) / 224 for plane in planes[height:].reshape(2, height // 2, -1))
    r, b = luma + 1.5748 * red, luma + 1.8556 * blue
    assert blue.shape == (height, width)
    return 255 * np.stack([r, (luma - 0.2126 * r - 0.0722 * b) / 0.7152, b], axis=-1)


def test_mp4_has_every_frame_and_the_sound(tmp_path: Path) -> None:
    path = tmp_path / "talk.mp4"
    speech = tone(16000, 1.5).astype(np.float32)
    assert write_video(path, frames(38), fps=25, sound=speech) == 38
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 16000, 1)
        assert video.average_rate == 25
        assert abs(float(video.duration * video.time_base) - 1.52) < 1e-3
        pictures = list(container.decode(video=0))
        assert [round(picture.time * 25) for picture in pictures] == list(range(38))
    for index, picture in enumerate(pictures):
        assert (picture.color_range, picture.colorspace) == (1, 1)  # as the file says: 16..235, BT.709
        assert np.abs(rgb(picture).mean((0, 1)) - COLOURS[index % 3]).max() < 6
    sound = read_audio(path)
    assert abs(len(sound) / 16000 - 1.5) < 0.07
    assert error_against_tone(sound) < 1e-2
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk.mp4"]


@pytest.mark.parametrize(
    ("name", "container", "video", "audio"),
    [
        ("talk.mp4", "mp4", "h264", "aac"),
        ("talk.MP4", "mp4", "h264", "aac"),
        ("talk.m4v", "mp4", "h264", "aac"),
        ("talk.mov", "mov", "h264", "aac"),
        ("talk.mkv", "matroska", "h264", "aac"),
        ("talk.webm", "webm", "vp9", "opus"),
        ("talk.final.WebM", "webm", "vp9", "opus"),
    ],
)
def test_the_name_says_the_format(tmp_path: Path, name: str, container: str, video: str, audio: str) -> None:
    write_video(tmp_path / name, frames(10), fps=25, sound=tone(16000, 1.5).astype(np.float32))
    brand = {"mp4": b"isom", "mov": b"qt  ", "matroska": b"matroska", "webm": b"webm"}[container]
    assert brand in (tmp_path / name).read_bytes()[:64]
    with av.open(str(tmp_path / name)) as file:
        assert (file.streams.video[0].codec_context.name, file.streams.audio[0].codec_context.name) == (video, audio)
        pictures = list(file.decode(video=0))
    assert [round(picture.time * 25) for picture in pictures] == list(range(10))
    for index, picture in enumerate(pictures):
        assert (picture.color_range, picture.colorspace) == (1, 1)
        assert np.abs(rgb(picture).mean((0, 1)) - COLOURS[index % 3]).max() < 8
    assert error_against_tone(read_audio(tmp_path / name)) < 2e-2


@pytest.mark.parametrize(
    "name", ["talk.gif", "talk", "talk.wav", "talk.avi", "talk.mp4.part", ".mp4", "talk.", "t.jpg"]
)
def test_a_name_that_says_no_video_format_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(VideoError, match=r"ends in \.mp4, \.m4v, \.mov, \.mkv or \.webm"):
        write_video(tmp_path / name, frames(3), fps=25, sound=tone(16000).astype(np.float32))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["talk.mp4", "talk.webm"])
@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 40000, 96000, 192000])
def test_an_array_of_any_rate_becomes_sound(tmp_path: Path, name: str, rate: int) -> None:
    write_video(tmp_path / name, frames(1), fps=25, sound=tone(rate).astype(np.float32), sound_rate=rate)
    assert error_against_tone(read_audio(tmp_path / name)) < 5e-2


def test_sound_past_the_last_frame_is_kept(tmp_path: Path) -> None:
    write_video(tmp_path / "talk.mp4", frames(5), fps=25, sound=tone(16000, 2).astype(np.float32))
    assert abs(len(read_audio(tmp_path / "talk.mp4")) / 16000 - 2) < 0.07


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (2, 2), (6, 2)])
def test_a_files_own_sound_is_kept(tmp_path: Path, channels: int, expected: int) -> None:
    sound = write(tmp_path / "a.wav", "pcm_s16le", 44100, channels)
    write_video(tmp_path / "talk.mp4", frames(38), fps=25, sound=sound)
    with av.open(str(tmp_path / "talk.mp4")) as container:
        audio = container.streams.audio[0]
        assert (audio.rate, audio.channels) == (48000, expected)
        assert abs(float(audio.duration * audio.time_base) - 1.5) < 0.04


@pytest.mark.parametrize(("width", "height"), [(127, 96), (128, 95), (127, 95)])
def test_odd_sizes_get_their_last_line_twice(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "talk.mp4"
    write_video(path, frames(3, width, height), fps=25, sound=tone(16000, 0.1).astype(np.float32))
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0))
        assert (picture.width, picture.height) == (128, 96)
        edges = rgb(picture)[[0, -1], [0, -1]]
    assert np.abs(edges - COLOURS[0]).max() < 12


def interrupted(count: int, error: BaseException) -> Iterator[Frame]:
    yield from frames(count)
    raise error


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), RuntimeError("server gone")], ids=repr)
def test_an_interruption_leaves_no_file_and_keeps_the_old_one(tmp_path: Path, count: int, error: BaseException) -> None:
    path = tmp_path / "talk.mp4"
    path.write_bytes(b"the old one")
    with pytest.raises(type(error)) as caught:
        write_video(path, interrupted(count, error), fps=25, sound=tone(16000).astype(np.float32))
    assert caught.value is error
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk.mp4"]
    assert path.read_bytes() == b"the old one"


def test_frames_are_taken_one_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []

    class Counted(bytes):
        def __del__(self) -> None:
            alive.append(-1)

    def counted() -> Iterator[Frame]:
        for frame in frames(50):
            alive.append(1)
            assert sum(alive) < 4
            yield Frame(Counted(frame.jpeg), frame.index, frame.time_s, frame.timings_ms)

    assert write_video(tmp_path / "talk.mp4", counted(), fps=25, sound=tone(16000, 2).astype(np.float32)) == 50


def test_what_cannot_be_written_is_said_plainly(tmp_path: Path) -> None:
    speech = tone(16000).astype(np.float32)
    with pytest.raises(VideoError, match="no frame"):
        write_video(tmp_path / "talk.mp4", frames(0), fps=25, sound=speech)
    with pytest.raises(VideoError, match=r"no folder .*missing to write talk\.mp4"):
        write_video(tmp_path / "missing" / "talk.mp4", frames(3), fps=25, sound=speech)
    with pytest.raises(VideoError, match="frame 0 is"):
        write_video(tmp_path / "talk.mp4", [*frames(1), *frames(1, 64, 64)], fps=25, sound=speech)
    with pytest.raises(AudioError, match="there is no file"):
        write_video(tmp_path / "talk.mp4", frames(3), fps=25, sound=tmp_path / "none.wav")
    assert not list(tmp_path.iterdir())
