"""A video that is handed on while it is made: bytes come out as frames go in."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from lipsync_client.answers import Frame
from lipsync_client.errors import VideoError
from lipsync_client.media import marking
from lipsync_client.media.video import FORMATS, VideoWriter

__all__ = ["GROWING", "GrowingVideo"]

GROWING = {"mp4": "video/mp4", "webm": "video/webm"}  # media types by format
# Of MP4, each second is a fragment that can be played without what follows. `delay_moov`: so that the header can tell
# how much the sound's encoder adds before the sound. `skip_trailer`: it would hold offsets, which the mark moves.
OPTIONS = {"mp4": {"movflags": "frag_keyframe+delay_moov+default_base_moof+skip_trailer"}, "webm": {}}


class _Output:
    """What FFmpeg writes to; it cannot go back."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._written)
        self._written.clear()
        return taken


class GrowingVideo:
    """A video as a stream of bytes. Use it as a context manager; not thread-safe, and its methods take milliseconds.

    Args:
        kind: `mp4` or `webm`.
        fps: frames a second.
        sound, sound_rate: as for `write_video`.
        mark: as for `write_video`.

    Raises:
        VideoError: another format.
        AudioError: the sound cannot be read.
    """

    def __init__(
        self,
        kind: str,
        *,
        fps: int,
        sound: str | os.PathLike[str] | NDArray[np.float32],
        sound_rate: int = 16_000,
        mark: bool = True,
    ) -> None:
        if kind not in GROWING:
            raise VideoError(f"A video cannot be sent as {kind[:20]!r} while it grows; allowed: {', '.join(GROWING)}.")
        form = FORMATS[f".{kind}"]
        self._output = _Output()
        self._unmarked = mark and form.container in marking.WITH_BOXES  # until the first bytes
        self._container: Any = av.open(self._output, "w", format=form.container, options=OPTIONS[kind])
        self._container.metadata.update(marking.TAGS if mark else {})
        self._writer = VideoWriter(self._container, form, fps, sound, sound_rate, keyframes=fps)

    def add(self, frame: Frame) -> bytes:
        """The next frame. Returns what is there of the video by now and was not returned before; often nothing."""
        self._writer.add(frame)
        return self._take()

    def finish(self) -> bytes:
        """The rest of the video."""
        self._writer.finish()
        self._container.close()
        return self._take()

    def _take(self) -> bytes:
        data = self._output.take()
        if data and self._unmarked:  # behind the box that says what the file is
            self._unmarked = False
            end = int.from_bytes(data[:4], "big")
            data = data[:end] + marking.XMP_BOX + data[end:]
        return data

    def __enter__(self) -> GrowingVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()
