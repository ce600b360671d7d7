"""Reading speech from files and arrays of every kind."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from lipsync_client import AudioError, read_audio, to_speech
from lipsync_client.media.audio import decode

SECONDS = 1.5
TONE = 440.0


def tone(rate: int, seconds: float = SECONDS, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * TONE * np.arange(round(rate * seconds)) / rate)


def write(path: Path, codec: str, rate: int, channels: int, samples: np.ndarray | None = None) -> Path:
    """A sound file by FFmpeg; `samples` mono, the same in every channel."""
    samples = tone(rate) if samples is None else samples
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        encoder_format = stream.codec_context.format.name
        every = np.ascontiguousarray(np.stack([samples] * channels).astype(np.float32))
        frame = av.AudioFrame.from_ndarray(every, format="fltp", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=encoder_format, layout=layout, rate=rate)
        for part in (frame, None):
            for block in resampler.resample(part):
                container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return path


def error_against_tone(speech: np.ndarray) -> float:
    """RMS error against the tone, away from the ends and at the best delay: codecs shift and colour a little."""
    part = speech[4000:12000]
    phases = np.exp(-2j * np.pi * TONE * np.arange(len(part)) / 16000)
    found = 2 * np.vdot(np.conj(phases), part) / len(part)
    fitted = np.real(found * np.conj(phases))
    assert abs(abs(found) - 0.5) < 0.03, "level"
    return float(np.sqrt(np.mean((part - fitted) ** 2)))


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels", "seconds_off", "error"),
    [
        ("a.wav", "pcm_s16le", 16000, 1, 0, 1e-4),
        ("a.wav", "pcm_s16le", 44100, 2, 1e-3, 1e-3),
        ("a.wav", "pcm_u8", 8000, 1, 1e-3, 5e-3),
        ("a.wav", "pcm_f32le", 48000, 6, 1e-3, 1e-3),
        ("a.flac", "flac", 44100, 2, 1e-3, 1e-3),
        ("a.mp3", "libmp3lame", 44100, 2, 0.06, 1e-2),
        ("a.ogg", "libopus", 48000, 1, 0.06, 2e-2),
        ("a.m4a", "aac", 22050, 1, 0.11, 1e-2),
    ],
)
def test_any_file_becomes_16_khz_mono(
    tmp_path: Path, name: str, codec: str, rate: int, channels: int, seconds_off: float, error: float
) -> None:
    speech = read_audio(write(tmp_path / name, codec, rate, channels))
    assert (speech.dtype, speech.ndim) == (np.float32, 1)
    assert abs(len(speech) / 16000 - SECONDS) <= seconds_off
    if channels <= 2:  # FFmpeg mixes 5.1 with its own weights: only the level is checked
        assert error_against_tone(speech) < error


def test_16_khz_wav_is_read_bit_by_bit(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32767, 20000, np.int16)
    path = write(tmp_path / "a.wav", "pcm_s16le", 16000, 1, samples / 32768)
    assert np.array_equal(read_audio(path), samples.astype(np.float32) / 32768)


def test_loud_channels_do_not_sum_past_full_scale(tmp_path: Path) -> None:
    for channels in (2, 6):
        path = write(tmp_path / f"{channels}.wav", "pcm_s16le", 48000, channels, tone(48000, level=0.99))
        assert 0.9 < np.abs(read_audio(path)).max() <= 1.0


def test_sound_of_a_video_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=48000, layout="mono")
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame(64, 48, "yuv420p")))
        frame = av.AudioFrame.from_ndarray(tone(48000).astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    assert error_against_tone(read_audio(path)) < 0.05


def test_damaged_files_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    cut = write(tmp_path / "cut.mp3", "libmp3lame", 16000, 1)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    assert 0.3 * SECONDS < len(read_audio(cut)) / 16000 < 0.7 * SECONDS
    noise = np.random.default_rng(0).uniform(-1, 1, 10 * 16000)
    for name, codec in (("holed.mp3", "libmp3lame"), ("holed.m4a", "aac")):
        holed = write(tmp_path / name, codec, 16000, 1, noise)
        data = bytearray(holed.read_bytes())
        hole = len(data) // 10
        data[3 * hole : 4 * hole] = b"\xff" * hole
        holed.write_bytes(data)
        assert 8 < len(read_audio(holed)) / 16000 < 9.5


def test_pieces_are_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", "pcm_s16le", 44100, 2)
    blocks = list(decode(path, rate=48000, layout="stereo"))
    assert len(blocks) > 1
    assert {block.shape[0] for block in blocks} == {2}
    assert abs(sum(block.shape[1] for block in blocks) - 48000 * SECONDS) <= 48


def test_what_cannot_be_read_is_said_plainly(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no sound here, only words\n" * 100)
    silent_video = tmp_path / "mute.mp4"
    with av.open(str(silent_video), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        container.mux(video.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(video.encode(None))
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    no_samples = tmp_path / "none.wav"
    with wave.open(str(no_samples), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
    for path, says in [
        (tmp_path / "missing.wav", "there is no file"),
        (tmp_path, "is a folder"),
        (text, "cannot be read as audio or video|no audio track"),
        (silent_video, "no audio track"),
        (empty, "cannot be read as audio or video"),
        (no_samples, "no sound in it"),
    ]:
        with pytest.raises(AudioError, match=says) as caught:
            read_audio(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "to_kind"),
    [
        ("int16", lambda x: np.round(x * 32768).astype(np.int16)),
        ("int32", lambda x: np.round(x * 2**31).astype(np.int32)),
        ("uint8", lambda x: np.round(x * 128 + 128).astype(np.uint8)),
        ("float64", lambda x: x),
        ("float32", lambda x: x.astype(np.float32)),
    ],
)
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [0, 2])
def test_any_array_becomes_speech(kind: str, to_kind, rate: int, channels: int) -> None:
    samples = to_kind(tone(rate))
    speech = to_speech(np.stack([samples] * channels, axis=1) if channels else samples, rate)
    assert speech.dtype == np.float32
    assert abs(len(speech) - 16000 * SECONDS) <= 16
    assert error_against_tone(speech) < 5e-3


def test_arrays_at_the_rate_are_kept() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    assert np.array_equal(to_speech(samples, 16000), samples)
    assert len(to_speech(np.zeros(0, np.int16), 44100)) == 0


@pytest.mark.parametrize("rate", [8000, 24000, 44100, 48000])
def test_a_few_samples_are_little_or_no_sound_and_no_error(rate: int) -> None:
    for count in range(1, 100):
        speech = to_speech(np.full(count, 0.5, np.float32), rate)
        assert speech.dtype == np.float32
        assert len(speech) <= count * 16000 / rate + 1


@pytest.mark.parametrize(
    ("samples", "rate", "says"),
    [
        (np.zeros((2, 1000), np.int16), 16000, r"\(n, channels\)"),
        (np.zeros((2, 2, 2)), 16000, r"\(2, 2, 2\)"),
        (np.array(["a"]), 16000, "cannot take"),
        (np.array([0.0, np.inf]), 16000, "finite"),
        (np.zeros(10), 0, "from 0"),
    ],
)
def test_arrays_that_are_no_sound_are_refused(samples: np.ndarray, rate: int, says: str) -> None:
    with pytest.raises(AudioError, match=says):
        to_speech(samples, rate)
