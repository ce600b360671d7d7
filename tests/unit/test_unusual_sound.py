"""Sound whose channels cancel, that changes within a file, with several tracks, in wrong scales."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from test_client_audio import error_against_tone, tone, write

from lipsync_client import AudioError, read_audio, to_speech
from lipsync_client.media.audio import decode
from lipsync_mel import speech_request


def write_channels(path: Path, codec: str, layout: str, channels: np.ndarray, rate: int = 48000) -> Path:
    """A sound file with different samples in each channel, shape = (channels, n)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(channels.astype(np.float32), format="fltp", layout=layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


SIDE = tone(48000)
CANCELLING = {
    "inverted": [SIDE, -SIDE],
    "inverted, a little quieter": [SIDE, -0.9 * SIDE],
    "inverted, with noise": [SIDE, -SIDE + np.random.default_rng(0).normal(0, 1e-3, len(SIDE))],
    "inverted, quiet": [0.02 * SIDE, -0.02 * SIDE],
}


@pytest.mark.parametrize("sides", CANCELLING.values(), ids=CANCELLING)
@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.mp3", "libmp3lame")])
def test_channels_that_cancel_are_noticed_and_one_is_taken(
    tmp_path: Path, name: str, codec: str, sides: list[np.ndarray]
) -> None:
    said: list[str] = []
    speech = read_audio(write_channels(tmp_path / name, codec, "stereo", np.stack(sides)), notice=said.append)
    expected = float(np.sqrt(np.mean(np.square(sides[0]))))
    assert abs(float(np.sqrt(np.mean(np.square(speech)))) / expected - 1) < 0.1
    assert len(said) == 1 and "channels cancel" in said[0] and str(tmp_path / name) in said[0] and "of 2" in said[0]


@pytest.mark.parametrize(
    ("layout", "signs"),
    [("quad", [1, -1, 1, -1]), ("5.1", [1, -1, 0, 0, 0, 0]), ("2.1", [1, -1, 0])],
)
def test_surround_that_cancels_is_noticed(tmp_path: Path, layout: str, signs: list[float]) -> None:
    said: list[str] = []
    channels = np.stack([sign * SIDE for sign in signs])
    speech = read_audio(write_channels(tmp_path / "a.wav", "pcm_s16le", layout, channels), notice=said.append)
    assert error_against_tone(speech) < 1e-3
    assert f"of {len(signs)} is used" in said[0]


@pytest.mark.parametrize(
    "sides", [[SIDE, SIDE], [SIDE, 0 * SIDE], [0 * SIDE, SIDE], [0 * SIDE, 0 * SIDE], [0.01 * SIDE, 0.01 * SIDE]]
)
def test_channels_that_do_not_cancel_are_mixed_silently(tmp_path: Path, sides: list[np.ndarray]) -> None:
    said: list[str] = []
    path = write_channels(tmp_path / "a.wav", "pcm_s16le", "stereo", np.stack(sides))
    mixed = np.concatenate(list(decode(path, rate=16000, layout="mono")), axis=1)[0]
    assert np.array_equal(read_audio(path, notice=said.append), mixed)
    assert not said


def test_arrays_whose_channels_cancel_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    samples = np.stack([tone(16000), -tone(16000)], axis=1)
    for rate, array in [(16000, samples), (16000, np.round(samples * 32767).astype(np.int16)), (48000, samples)]:
        caplog.clear()
        assert np.sqrt(np.mean(to_speech(array, rate) ** 2)) > 0.3
        assert "channels cancel" in caplog.text  # by default, Python's logging shows it


def join(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


PARTS = {
    "rate": [(44100, 1), (22050, 1)],
    "channels": [(44100, 1), (44100, 2)],
    "rate and channels": [(48000, 2), (16000, 1)],
    "back again": [(44100, 1), (22050, 2), (44100, 1)],
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp3", "libmp3lame"), ("aac", "aac"), ("ac3", "ac3"), ("ts", "aac"), ("mp2", "mp2")]
)
def test_sound_that_changes_within_a_file_is_read_whole(
    tmp_path: Path, suffix: str, codec: str, parts: list[tuple[int, int]]
) -> None:
    if codec == "ac3":  # which has three rates
        parts = [({22050: 32000, 16000: 32000}.get(rate, rate), channels) for rate, channels in parts]
    files = [
        write(tmp_path / f"{number}.{suffix}", codec, rate, channels) for number, (rate, channels) in enumerate(parts)
    ]
    speech = read_audio(join(tmp_path / f"joined.{suffix}", *files))
    assert abs(len(speech) / 16000 - 1.5 * len(parts)) < 0.15 * len(parts)
    for number in range(len(parts)):
        part = speech[number * 24000 + 2000 : number * 24000 + 20000]
        assert abs(np.sqrt(np.mean(part**2)) - 0.5 / np.sqrt(2)) < 0.04, f"the level of part {number}"


def test_a_stereo_reader_gets_every_part_in_stereo(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.mp3", "libmp3lame", rate, n + 1) for n, rate in enumerate((44100, 22050))]
    blocks = list(decode(join(tmp_path / "joined.mp3", *files), rate=48000, layout="stereo"))
    assert {block.shape[0] for block in blocks} == {2}


def write_tracks(path: Path, levels: list[float], default: int | None, titles: bool = False) -> Path:
    """A file with an audio track for each level."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("aac", rate=48000, layout="mono") for _ in levels]
        for number, stream in enumerate(streams):
            stream.disposition = Disposition.default if number == default else Disposition(0)
            if titles:
                stream.metadata.update(language="deu", title=f"track {number}")
        for stream, level in zip(streams, levels, strict=True):
            frame = av.AudioFrame.from_ndarray(tone(48000, level=level).astype(np.float32)[None], "fltp", "mono")
            frame.sample_rate = 48000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def nearest(levels: list[float], speech: np.ndarray) -> int:
    """The track whose level is nearest: coders do not keep it exactly."""
    level = np.sqrt(2 * np.mean(np.square(speech[4000:12000])))
    return int(np.argmin(np.abs(np.array(levels) - level)))


@pytest.mark.parametrize("suffix", ["mkv", "mka", "mov", "mp4"])
@pytest.mark.parametrize(("default", "taken"), [(0, 0), (1, 1), (2, 2)])
def test_the_default_track_is_read_and_named(tmp_path: Path, suffix: str, default: int, taken: int) -> None:
    levels, said = [0.1, 0.3, 0.6], []
    path = write_tracks(tmp_path / f"a.{suffix}", levels, default)
    speech = read_audio(path, notice=said.append)
    assert nearest(levels, speech) == taken
    assert said == [f"{path} has 3 audio tracks: number {taken + 1} is used"]


def test_a_track_is_named_with_its_language_and_title(tmp_path: Path) -> None:
    said: list[str] = []
    read_audio(write_tracks(tmp_path / "a.mkv", [0.1, 0.3], 1, titles=True), notice=said.append)
    assert said[0].endswith("number 2 (deu, track 1) is used")


def test_without_a_default_the_first_track_is_read(tmp_path: Path) -> None:
    said: list[str] = []
    speech = read_audio(write_tracks(tmp_path / "a.ts", [0.1, 0.3], None), notice=said.append)
    assert nearest([0.1, 0.3], speech) == 0
    assert "number 1 " in said[0]


def test_a_single_track_is_not_mentioned(tmp_path: Path) -> None:
    said: list[str] = []
    read_audio(write(tmp_path / "a.wav", "pcm_s16le", 16000, 1), notice=said.append)
    assert not said


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.array([0, 32767, -32768]), "int64, which tells no scale"),
        (np.zeros(3, np.int64), "int64, which tells no scale"),
        (np.array([0, 65535], np.uint64), "uint64, which tells no scale"),
        (np.array([0.0, 32767.0]), "float64 and reach 32767"),
        (np.array([0, -8388608], np.float32), "float32 and reach 8388608"),
        (np.array([0, 255], np.float16), "float16 and reach 255"),
    ],
)
def test_samples_of_an_unknown_scale_are_refused(samples: np.ndarray, says: str) -> None:
    with pytest.raises(AudioError, match=says):
        to_speech(samples, 16000)


@pytest.mark.parametrize("level", [32767, 255, 8388608, 10.5, -32768])
def test_the_server_refuses_samples_of_another_scale(level: float) -> None:
    with pytest.raises(ValueError, match="AUDIO reaches"):
        speech_request.parse(np.array([0, level] * 20000, np.float32))


@pytest.mark.parametrize("level", [0, 1e-6, 1, 1.5, 10])
def test_samples_somewhat_beyond_full_scale_are_taken(level: float) -> None:
    speech_request.parse(np.full(40000, level, np.float32))
    to_speech(np.full(10, float(level)), 16000)
