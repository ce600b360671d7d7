"""What a server answers, as our types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lipsync_composite.segments import paste_patch

__all__ = ["Avatar", "Frame", "Patch", "Result", "Timings"]


class Timings(NamedTuple):
    """Milliseconds that one request spent in the server's stages."""

    audio: float
    inference: float  # encoder and U-Net, with queueing
    composite: float
    total: float


@dataclass(frozen=True)
class Patch:
    """What a mouth changes of a footage frame.

    Attributes:
        jpeg: a JPEG file of that rectangle.
        box: x, y, width, height of it in the frame, in pixels.
        key: `Avatar.key` of the avatar whose footage it belongs to.
    """

    jpeg: bytes
    box: tuple[int, int, int, int]
    key: int

    def __len__(self) -> int:
        return len(self.jpeg)

    def paste(self, footage: bytes) -> bytes:
        """The whole frame, byte for byte as the server would have given it. Nothing is decoded.

        Args:
            footage: JPEG of the footage frame that the patch was made for.

        Raises:
            ValueError: the patch is not of this footage.
        """
        return paste_patch(footage, self.jpeg, self.box)


@dataclass(frozen=True)
class Result:
    """The answer to one request: JPEG files, their frame numbers, and the server's times.

    `patches` are there instead of `frames` where the request asked for them.
    """

    frames: tuple[bytes, ...]
    frame_index: tuple[int, ...]
    timings_ms: Timings
    patches: tuple[Patch, ...] = ()


@dataclass(frozen=True)
class Frame:
    """One picture of the talking face.

    Attributes:
        jpeg: a whole JPEG file.
        index: frame number in the speech.
        time_s: when it is shown, in seconds from the beginning of the speech.
        timings_ms: the server's times of the request that it came with (one object for all frames of a request).
    """

    jpeg: bytes
    index: int
    time_s: float
    timings_ms: Timings


@dataclass(frozen=True)
class Avatar:
    """Facts of a loaded avatar.

    Attributes:
        id: its name.
        key: hash of its packed content: another one means that the avatar was replaced.
        frame_width, frame_height: size of its pictures.
        footage_frames: length of its footage.
        loop: how the footage repeats: "forward" or "pingpong".
        preset: quality and speed: turbo, low, medium, high or exact; "" if the server does not say.
    """

    id: str
    key: int
    frame_width: int
    frame_height: int
    footage_frames: int
    loop: str
    preset: str = ""
