"""Reads speech from any audio or video file, or from an array at any rate."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from lipsync_client.errors import AudioError
from lipsync_client.media.input_file import ffmpeg_name, main_track, seekable

__all__ = ["read_audio", "to_speech"]

SPEECH_RATE = 16_000  # samples a second that read_audio and to_speech return by default
QUIET = 0.03**2  # power below which a mix is compared with its channels: no usual speech is so quiet
CANCELLED = 0.1**2  # power of a mix whose channels cancel each other, relative to the loudest channel
LOUDEST = 10.0  # of samples that should lie in -1..1: more are on another scale

log = logging.getLogger(__name__)


def _silent(sentence: str) -> None:
    """Takes notice of nothing."""


def read_audio(
    path: str | os.PathLike[str], *, rate: int = SPEECH_RATE, notice: Callable[[str], object] = log.warning
) -> NDArray[np.float32]:
    """The sound of a file as mono speech, from any container, codec, rate and number of channels that FFmpeg reads.

    Args:
        path: an audio or video file; also a named pipe, or `-` for the standard input.
        rate: samples a second wanted.
        notice: called with a sentence if the file has several audio tracks, or channels that cancel each other.

    Returns:
        Samples in [-1, 1], shape = (n,), of the default audio track. The channels are mixed so that the loudest
        possible sum is 1; if they cancel each other (one side is inverted), the loudest channel is taken.

    Raises:
        AudioError: no such file, no sound in it, not readable, or empty.
    """
    with seekable(path) as file:
        speech: NDArray[np.float32] = np.concatenate(list(decode(file, rate=rate, layout="mono", notice=notice)), 1)[0]
        power = _power(speech)
        if power < QUIET and channels_of(file) > 1:
            channels = np.concatenate(list(decode(file, rate=rate, layout=None)), axis=1)
            if power < CANCELLED * max(map(_power, channels)):
                loudest = int(np.argmax([*map(_power, channels)]))
                notice(_cancelled(str(file), loudest, len(channels)))
                return np.ascontiguousarray(channels[loudest])
        return speech


def to_speech(
    samples: NDArray[Any],
    rate: int,
    *,
    to_rate: int = SPEECH_RATE,
    notice: Callable[[str], object] = log.warning,
) -> NDArray[np.float32]:
    """Samples of any type, rate and number of channels as mono speech.

    Args:
        samples: shape = (n,) or (n, channels). Floats in [-1, 1], or integers of 8 to 32 bits, whose full range is
            taken as -1..1.
        rate: their samples a second.
        to_rate: samples a second wanted.
        notice: called with a sentence if the channels cancel each other; the loudest is taken then.

    Returns:
        Samples, shape = (about n * to_rate / rate,). An input of a millisecond or less may give no samples.

    Raises:
        AudioError: not an array of samples, not finite, of a scale that is unknown or wrong, or a rate below 1.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
        raise AudioError(
            f"cannot take {samples.dtype} of shape {samples.shape} as sound: give shape (n,) or (n, channels)"
        )
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        raise AudioError(f"samples have shape {samples.shape}: give (n, channels), one row for each moment")
    if rate < 1 or to_rate < 1:
        raise AudioError(f"cannot resample from {rate} to {to_rate} samples a second")
    if samples.dtype.kind == "f":
        speech = samples.astype(np.float32)
        if not np.isfinite(speech).all():
            raise AudioError("samples are not finite: there are NaN or infinite values")
        peak = float(np.abs(speech).max(initial=0))
        if peak > LOUDEST:
            raise AudioError(f"samples are {samples.dtype} and reach {peak:.0f}: floats must lie in -1..1")
    elif samples.dtype.itemsize > 4:  # no sound has 64 bits: numpy makes such arrays of lists
        raise AudioError(
            f"samples are {samples.dtype}, which tells no scale: give int16 or int32 samples, or floats in -1..1"
        )
    else:
        info = np.iinfo(samples.dtype)
        middle = 0 if info.min else (info.max + 1) // 2
        speech = ((samples.astype(np.float64) - middle) / (info.max + 1 - middle)).astype(np.float32)
    if speech.ndim == 2:
        speech = _mixed(speech, notice)
    if rate == to_rate or not len(speech):
        return speech
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(speech[None]), format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = AudioResampler(format="fltp", layout="mono", rate=to_rate)
    blocks = [block.to_ndarray() for part in (frame, None) for block in resampler.resample(part)]
    return np.concatenate(blocks, axis=1)[0] if blocks else np.zeros(0, np.float32)


def _mixed(channels: NDArray[np.float32], notice: Callable[[str], object]) -> NDArray[np.float32]:
    """The mean of channels [n, channels], or the loudest if they cancel each other."""
    mix = np.asarray(channels.mean(axis=1, dtype=np.float32))
    powers = [_power(channel) for channel in channels.T]
    if _power(mix) >= CANCELLED * max(powers):
        return mix
    loudest = int(np.argmax(powers))
    notice(_cancelled("the sound", loudest, len(powers)))
    return np.ascontiguousarray(channels[:, loudest])


def _power(samples: NDArray[np.float32]) -> float:
    return float(np.dot(samples, samples)) / max(len(samples), 1)


def _cancelled(name: str, channel: int, count: int) -> str:
    return f"{name}: its channels cancel each other when they are mixed; channel {channel + 1} of {count} is used alone"


def channels_of(path: str | os.PathLike[str]) -> int:
    """Number of channels of a file's sound. Raises AudioError."""
    with _open(path) as container:
        return _stream(container, path, _silent).codec_context.channels


def decode(
    path: str | os.PathLike[str], *, rate: int, layout: str | None, notice: Callable[[str], object] = _silent
) -> Iterator[NDArray[np.float32]]:
    """The sound of a file, in blocks as they are decoded.

    Args:
        path: an audio or video file.
        rate: samples a second wanted.
        layout: FFmpeg's name of the channel layout wanted, such as "mono" or "stereo"; None: the file's own.
        notice: called with a sentence if the file has several audio tracks.

    Yields:
        Samples in [-1, 1], shape = (channels, n), never empty.

    Raises:
        AudioError: no such file, no sound in it, not readable, or empty.
    """
    with _open(path) as container:
        stream = _stream(container, path, notice)
        empty = True
        try:
            for block in _resampled(_frames(container, stream), layout or stream.codec_context.layout.name, rate):
                if block.samples:
                    empty = False
                    yield (block.to_ndarray() / np.float32(2**31)).astype(np.float32)
        except (av.FFmpegError, ValueError) as error:  # ValueError: a channel layout that cannot be mixed
            raise AudioError(f"{path} cannot be read to its end as audio ({error})") from None
        if empty:
            raise AudioError(f"{path} has no sound in it: its audio track is empty or damaged")


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[InputContainer]:
    with seekable(path) as file:
        try:
            container = av.open(ffmpeg_name(file))
        except av.FFmpegError as error:
            raise AudioError(f"{file} cannot be read as audio or video ({error.strerror})") from None
        except OSError as error:
            raise AudioError(f"{file} cannot be opened ({error.strerror})") from None
        with container:
            yield container


def _stream(container: InputContainer, path: str | os.PathLike[str], notice: Callable[[str], object]) -> AudioStream:
    tracks = container.streams.audio
    if not tracks:
        raise AudioError(f"{path} has no audio track")
    stream = main_track(tracks)
    if len(tracks) > 1:
        facts = [stream.language or "", stream.metadata.get("title", "")]
        stated = ", ".join(fact for fact in facts if fact and fact != "und")
        number = tracks.index(stream) + 1
        notice(f"{path} has {len(tracks)} audio tracks: number {number}{stated and f' ({stated})'} is used")
    return stream


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame]:
    """Decoded frames. Damaged packets are skipped, as players do."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        for frame in frames:
            frame.pts = None  # gaps and jumps of the file's time stamps are ignored
            yield frame


def _resampled(frames: Iterator[av.AudioFrame], layout: str, rate: int) -> Iterator[av.AudioFrame]:
    """The frames at one rate and layout, also where the file changes its own: joined files and broadcasts do."""
    for _, part in itertools.groupby(frames, lambda frame: (frame.format.name, frame.layout.name, frame.sample_rate)):
        # 32-bit integers, because FFmpeg's downmix stays within full scale only for integers.
        resampler = AudioResampler(format="s32p", layout=layout, rate=rate)
        for frame in part:
            yield from resampler.resample(frame)
        yield from resampler.resample(None)
