"""What a live session gives, and the clock it gives it by."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lipsync_client.answers import Patch

__all__ = ["Clock", "LiveFrame", "LoopClock"]


class Clock(Protocol):
    """Where a live session takes its time from: seconds from any beginning."""

    def now(self) -> float:
        """The time."""

    async def sleep_until(self, time: float) -> None:
        """Return at that time, or at once if it is past."""


class LoopClock:
    """The running event loop's own clock."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep_until(self, time: float) -> None:
        await asyncio.sleep(max(0.0, time - self.now()))


@dataclass(frozen=True)
class LiveFrame:
    """One picture of a live session, with the sound that belongs to it.

    Attributes:
        jpeg: a whole JPEG file. Where there is a `patch`, of the plain footage, and `whole` gives the picture.
        index: number of the frame in the session: 0, 1, 2, ..
        time_s: when it is shown on the session's clock, in seconds: index / fps.
        state: "speaking" from the first to the last frame of a speech, also while it waits for more audio in between.
        speech_id: the speech; None while idle.
        speech_frame: number of the frame in its speech; None while idle, and while a speech waits.
        audio: the sound of this frame, float32 at the session's `sound_rate`, shape = (sound_rate / 25,): always one
            frame long, zeros where there is none.
        audio_span: (start, stop) of that sound in the speech, in samples at the timeline's rate (16 kHz) whatever the
            `sound_rate`; None where there is none.
        last: the speech ends with this frame.
        footage_position: position in the avatar's footage, not looped; from frame to frame it changes by 1 at most.
        tag: what `push` was given with the frame's first sample; None where there is no sound.
        footage_key: key of the avatar whose plain footage `jpeg` is; None where it is a whole talking frame.
        patch: what the mouth changes of `jpeg`, in a session with patches; None where that is nothing.
        marks: values of the marks that are reached: all sound before them has been shown with this frame.
    """

    jpeg: bytes
    index: int
    time_s: float
    state: Literal["idle", "speaking"]
    speech_id: int | None
    speech_frame: int | None
    audio: NDArray[np.float32]
    audio_span: tuple[int, int] | None
    last: bool
    footage_position: int
    footage_key: int | None = None
    patch: Patch | None = None
    tag: Any = None
    marks: tuple[Any, ...] = ()

    def whole(self) -> bytes:
        """The picture as one JPEG file; with and without patches the same bytes."""
        return self.patch.paste(self.jpeg) if self.patch else self.jpeg
