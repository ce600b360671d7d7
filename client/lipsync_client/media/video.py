"""Writes a talking face as a video file, in the format that its name says."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray
from PIL import Image

from lipsync_client.answers import Frame
from lipsync_client.errors import LipsyncError, VideoError
from lipsync_client.media import marking
from lipsync_client.media.audio import channels_of, decode, to_speech
from lipsync_client.media.credentials import Credentials
from lipsync_client.media.input_file import ffmpeg_name, seekable
from lipsync_client.output_file import output_file

__all__ = ["write_video"]


class Format(NamedTuple):
    """A container with the encoders that its players expect. `options` are those of FFmpeg's muxer."""

    container: str
    video: Literal["libx264", "libvpx-vp9"]
    audio: Literal["aac", "libopus"]
    options: dict[str, str]


MP4 = Format("mp4", "libx264", "aac", {"movflags": "faststart"})
FORMATS = {
    ".mp4": MP4,
    ".m4v": MP4,
    ".mov": MP4._replace(container="mov"),
    ".mkv": Format("matroska", "libx264", "aac", {}),
    ".webm": Format("webm", "libvpx-vp9", "libopus", {}),
}
ENCODER_OPTIONS = {  # of high quality, and much faster than real time: they share the cores with the server
    "libx264": {"crf": "18", "preset": "ultrafast"},  # 49 dB, as `superfast`, in a third of its time; 10 % larger
    "libvpx-vp9": {"crf": "22", "b": "0", "deadline": "realtime", "cpu-used": "7", "row-mt": "1"},
}
SOUND_RATE = 48_000  # for the sound of files; every player supports it
BT709 = 1  # FFmpeg's number for it; players assume it for HD pictures


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[Frame],
    *,
    fps: int,
    sound: str | os.PathLike[str] | NDArray[np.float32],
    sound_rate: int = 16_000,
    mark: bool = True,
    credentials: Credentials | None = None,
) -> int:
    """Write frames and their sound to a file, each frame as it arrives.

    The file has a temporary name until it is complete. If writing fails, it is removed.
    The encoders need even sizes: of a picture of odd width or height, the last column or row is repeated.

    Args:
        path: a name that ends in .mp4, .m4v, .mov, .mkv (H.264 and AAC) or .webm (VP9 and Opus); a file that exists is
            replaced. A symbolic link stays, the file that it names is replaced.
        frames: in order, all of one size.
        fps: frames a second.
        sound: an audio or video file, whose sound is resampled to 48 kHz (mono or stereo); or mono samples in
            [-1, 1], shape = (n,).
        sound_rate: samples a second of the array.
        mark: say in the file's metadata that AI made a part of the pictures: XMP in MP4 and MOV, a tag in MKV and WebM.
            Without it, you answer for telling viewers in another way.
        credentials: sign the file with these, as C2PA defines it; for MP4 and MOV, and marked ones only.

    Returns:
        Number of frames written.

    Raises:
        VideoError: the name has another ending, the file cannot be written, there is no frame, or the frames' sizes
            differ.
        AudioError: the sound cannot be read.
    """
    path, kind = video_file(path), format_of(path)
    if credentials:
        credentials.check(kind.container, mark)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with ExitStack() as opened:
            if not isinstance(sound, np.ndarray):
                sound = opened.enter_context(seekable(sound))
            container = opened.enter_context(
                av.open(ffmpeg_name(part), "w", format=kind.container, options=kind.options)
            )
            container.metadata.update(marking.TAGS if mark else {})
            count = VideoWriter(container, kind, fps, sound, sound_rate).write(frames)
        if not count:
            raise VideoError(f"there is no frame to write to {path}")
        if mark:
            marking.add_xmp(part, kind.container)
        if credentials:
            credentials.sign(part, kind.container)
        part.replace(path)
        return count
    except LipsyncError:  # before OSError: some of them are both
        raise
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        part.unlink(missing_ok=True)


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format that a file's name says. Raises VideoError."""
    name = Path(path)
    if name.suffix.lower() not in FORMATS:
        *most, last = FORMATS
        raise VideoError(f"{name} says no video format: give a name that ends in {', '.join(most)} or {last}")
    return FORMATS[name.suffix.lower()]


def video_file(path: str | os.PathLike[str]) -> Path:
    """Where a video of that name is written, see `output_file`. Raises VideoError, also for an unknown format."""
    try:
        place = output_file(path)
    except LipsyncError as error:
        raise VideoError(str(error)) from None
    format_of(path)
    return place


class VideoWriter:
    """Interleaves pictures and sound, so that the muxer buffers little. `keyframes`: frames from one to the next."""

    def __init__(
        self,
        container: OutputContainer,
        kind: Format,
        fps: int,
        sound: str | os.PathLike[str] | NDArray[np.float32],
        sound_rate: int,
        keyframes: int | None = None,
    ) -> None:
        if isinstance(sound, np.ndarray):
            known = av.codec.Codec(kind.audio, "w").audio_rates
            self._rate, layout = sound_rate if not known or sound_rate in known else SOUND_RATE, "mono"
            sound = to_speech(sound, sound_rate, to_rate=self._rate)
            self._sound: Iterator[NDArray[np.float32]] = iter(
                np.array_split(sound[None], len(sound) // self._rate + 1, 1)
            )
        else:
            self._rate, layout = SOUND_RATE, "mono" if channels_of(sound) == 1 else "stereo"
            self._sound = decode(sound, rate=self._rate, layout=layout)
        self._layout = layout
        self._fps = fps
        self._container = container
        self._samples = self._count = 0
        self._size: tuple[int, int] | None = None
        self._video = container.add_stream(kind.video, rate=fps, options=ENCODER_OPTIONS[kind.video])
        if keyframes:
            self._video.codec_context.gop_size = keyframes
        self._audio = container.add_stream(kind.audio, rate=self._rate, layout=layout, bit_rate=128_000)

    def write(self, frames: Iterable[Frame]) -> int:
        """All frames, and the sound. Returns how many they were; without any, nothing is written."""
        for frame in frames:
            self.add(frame)
        if self._count:
            self.finish()
        return self._count

    def add(self, frame: Frame) -> None:
        """The next frame, and the sound up to its end. Raises VideoError, AudioError, av.FFmpegError."""
        picture = _even(Image.open(io.BytesIO(frame.jpeg)).convert("RGB"))
        if self._size is None:
            self._size = picture.size
            self._start(*picture.size)
        elif picture.size != self._size:
            raise VideoError(f"frame {frame.index} is {picture.size}, the first one was {self._size}")
        self._put_picture(picture, self._count)
        self._count += 1
        self._put_sound(until=Fraction(self._count, self._fps))

    def finish(self) -> None:
        """The rest of the sound, and what the encoders hold back."""
        self._put_sound(until=None)
        for stream in (self._video, self._audio):
            self._container.mux(stream.encode(None))

    def _start(self, width: int, height: int) -> None:
        context = self._video.codec_context
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        context.color_range, context.colorspace = 1, BT709  # 1: 16..235, which every player expects
        context.color_primaries = context.color_trc = BT709

    def _put_picture(self, picture: Image.Image, number: int) -> None:
        frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = number, Fraction(1, self._fps)
        self._container.mux(self._video.encode(frame))

    def _put_sound(self, until: Fraction | None) -> None:
        """Write sound up to a time in seconds; None: all that is left."""
        while until is None or self._samples < until * self._rate:
            block = next(self._sound, None)
            if block is None:
                return
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._samples, Fraction(1, self._rate)
            self._samples += block.shape[1]
            self._container.mux(self._audio.encode(frame))


def _even(picture: Image.Image) -> Image.Image:
    """Repeat the last column or row of a picture of odd size."""
    width, height = picture.size
    if width % 2 == 0 and height % 2 == 0:
        return picture
    pixels = np.pad(np.asarray(picture), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return Image.fromarray(pixels)
