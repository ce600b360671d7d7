"""Which picture each frame of a live session shows, with which sound."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lipsync_client.answers import Patch
from lipsync_client.live.footage import Footage, IdleWalk
from lipsync_client.live.frame import LiveFrame
from lipsync_client.live.queue import SpeechQueue
from lipsync_client.live.scheduler import FrameScheduler, Slot
from lipsync_client.live.speech import Speech
from lipsync_client.timeline import Timeline

__all__ = ["FrameSelector"]


class Picture(NamedTuple):
    """What a frame shows; the fields are those of `LiveFrame`."""

    jpeg: bytes
    position: int
    footage_key: int | None
    patch: Patch | None = None


class FrameSelector:
    """Makes the frames of a session, one after the other.

    Attributes:
        index: number of the next frame.

    Args:
        talk: the talking frames.
        footage: the idle ones; those at position 0 must be here.
        queue: gives up the sound that a frame shows.
        sound_rate: samples a second of the frames' sound.
    """

    def __init__(
        self, talk: FrameScheduler, footage: Footage, queue: SpeechQueue, timeline: Timeline, sound_rate: int
    ) -> None:
        self.index = 0
        self._talk, self._footage, self._queue = talk, footage, queue
        self._timeline, self._sound_size = timeline, sound_rate // timeline.fps
        self._walk = IdleWalk()
        self._speaking: Speech | None = None  # the speech whose first frame was shown and whose last was not
        self._shown = Picture(b"", -1, None)

    def next(self) -> LiveFrame:
        """The next talking frame or an idle one. No waiting: an interruption cannot come in between.

        Raises:
            LipsyncError: the idle frame is not here, because fetching it failed.
        """
        head = self._talk.head
        ready = self._talk.ready()
        position = self._walk.next(self._talk.position, head.position if head else None, ready)
        jpeg = self._footage.get(position)
        if head and ready and (position == head.position or jpeg is None) and (picture := self._picture_of(head)):
            return self._talking(self._talk.take(), picture)
        if jpeg is None:  # not here yet: stand still
            self._footage.report()
            return self._frame(self._shown)
        return self._frame(Picture(jpeg, position, self._footage.avatar.key))

    def stop_speaking(self) -> None:
        """The speech that is shown was dropped."""
        self._speaking = None

    def _picture_of(self, slot: Slot) -> Picture | None:
        """The picture of a talking frame. A patch needs its footage, which may not be here."""
        if not isinstance(slot.picture, Patch):
            return Picture(slot.picture, slot.position, None) if slot.picture else None
        jpeg = self._footage.get(slot.position)
        patch = slot.picture if self._footage.fits(slot.picture) else None  # the avatar was replaced: sound alone
        return Picture(jpeg, slot.position, self._footage.avatar.key, patch) if jpeg else None

    def _talking(self, slot: Slot, picture: Picture) -> LiveFrame:
        self._speaking = slot.speech
        frame = self._frame(picture, slot)
        if frame.last:
            self._speaking = None
        return frame

    def _frame(self, picture: Picture, slot: Slot | None = None) -> LiveFrame:
        speech = self._speaking
        last = bool(slot and slot.speech.finished)
        taken = (
            self._queue.take(slot.speech.pushed(slot.frame), slot.speech, last=last) if slot else self._queue.take(0)
        )
        frame = LiveFrame(
            jpeg=picture.jpeg,
            index=self.index,
            time_s=self._timeline.time(self.index),
            state="speaking" if speech else "idle",
            speech_id=speech.id if speech else None,
            speech_frame=slot.frame if slot else None,
            audio=slot.speech.sound(slot.frame, taken.samples) if slot else np.zeros(self._sound_size, np.float32),
            audio_span=slot.speech.span(slot.frame) if slot else None,
            last=last,
            footage_position=picture.position,
            footage_key=picture.footage_key,
            patch=picture.patch,
            tag=taken.tag if slot else None,
            marks=taken.marks,
        )
        self.index, self._shown, self._talk.position = self.index + 1, picture, picture.position
        self._footage.prefetch(picture.position + 1)
        return frame
