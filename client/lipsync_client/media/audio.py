"""Reads speech from any audio or video file, or from an array at any rate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from lipsync_client.errors import AudioError
from lipsync_client.media.input_file import ffmpeg_name, seekable

__all__ = ["read_audio", "to_speech"]

SPEECH_RATE = 16_000  # samples a second that read_audio and to_speech return by default


def read_audio(path: str | os.PathLike[str], *, rate: int = SPEECH_RATE) -> NDArray[np.float32]:
    """The sound of a file as mono speech, from any container, codec, rate and number of channels that FFmpeg reads.

    Args:
        path: an audio or video file; also a named pipe, or `-` for the standard input.
        rate: samples a second wanted.

    Returns:
        Samples in [-1, 1], shape = (n,). The channels are mixed so that the loudest possible sum is 1.

    Raises:
        AudioError: no such file, no sound in it, not readable, or empty.
    """
    blocks = list(decode(path, rate=rate, layout="mono"))
    speech: NDArray[np.float32] = np.concatenate(blocks, axis=1)[0]
    return speech


def to_speech(samples: NDArray[Any], rate: int, *, to_rate: int = SPEECH_RATE) -> NDArray[np.float32]:
    """Samples of any type, rate and number of channels as mono speech.

    Args:
        samples: shape = (n,) or (n, channels). Floats in [-1, 1], or integers, whose full range is taken as -1..1.
        rate: their samples a second.
        to_rate: samples a second wanted.

    Returns:
        Samples, shape = (about n * to_rate / rate,). An input of a millisecond or less may give no samples.

    Raises:
        AudioError: not an array of samples, not finite, or a rate below 1.
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
    else:
        info = np.iinfo(samples.dtype)
        middle = 0 if info.min else (info.max + 1) // 2
        speech = ((samples.astype(np.float64) - middle) / (info.max + 1 - middle)).astype(np.float32)
    if speech.ndim == 2:
        speech = speech.mean(axis=1, dtype=np.float32)
    if rate == to_rate or not len(speech):
        return speech
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(speech[None]), format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = AudioResampler(format="fltp", layout="mono", rate=to_rate)
    blocks = [block.to_ndarray() for part in (frame, None) for block in resampler.resample(part)]
    return np.concatenate(blocks, axis=1)[0] if blocks else np.zeros(0, np.float32)


def channels_of(path: str | os.PathLike[str]) -> int:
    """Number of channels of a file's sound. Raises AudioError."""
    with _open(path) as container:
        return _stream(container, path).codec_context.channels


def decode(path: str | os.PathLike[str], *, rate: int, layout: str) -> Iterator[NDArray[np.float32]]:
    """The sound of a file, in blocks as they are decoded.

    Args:
        path: an audio or video file.
        rate: samples a second wanted.
        layout: FFmpeg's name of the channel layout wanted, such as "mono" or "stereo".

    Yields:
        Samples in [-1, 1], shape = (channels, n), never empty.

    Raises:
        AudioError: no such file, no sound in it, not readable, or empty.
    """
    with _open(path) as container:
        stream = _stream(container, path)
        # 32-bit integers, because FFmpeg's downmix stays within full scale only for integers.
        resampler = AudioResampler(format="s32p", layout=layout, rate=rate)
        empty = True
        try:
            for frame in _frames(container, stream):
                for block in resampler.resample(frame):
                    if block.samples:
                        empty = False
                        yield (block.to_ndarray() / np.float32(2**31)).astype(np.float32)
        except (av.FFmpegError, ValueError) as error:  # ValueError: the format changes within the file
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


def _stream(container: InputContainer, path: str | os.PathLike[str]) -> AudioStream:
    if not container.streams.audio:
        raise AudioError(f"{path} has no audio track")
    return container.streams.audio[0]


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame | None]:
    """Decoded frames, then None. Damaged packets are skipped, as players do."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        for frame in frames:
            frame.pts = None  # gaps and jumps of the file's time stamps are ignored
            yield frame
    yield None
