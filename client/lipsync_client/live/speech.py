"""One live speech: its samples as they come in, which of its frames they allow, and the sound of each frame."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from lipsync_client import wire
from lipsync_client.errors import AudioError, InvalidRequest
from lipsync_client.media.audio import to_speech
from lipsync_client.timeline import Request, Timeline

__all__ = ["Pcm", "Resampler", "Speech", "checked_sound_rate"]

Pcm = bytes | bytearray | memoryview | NDArray[Any]
FLOAT32 = 4  # bytes


def checked_sound_rate(rate: int | None, timeline: Timeline) -> int:
    """Samples a second of the sound that frames carry; None: the timeline's. Raises InvalidRequest."""
    if rate is None:
        return timeline.sample_rate
    if rate < 1 or rate % timeline.fps:
        raise InvalidRequest(f"sound_rate is {rate}; it must be a multiple of the {timeline.fps} frames a second")
    return rate


class Resampler:
    """`to_speech`, piece by piece: `decode`, then `convert`. All pieces are bit-equal to converting the whole at once.

    Args:
        rate: samples a second of what is pushed.
        to_rate: samples a second wanted.
    """

    def __init__(self, rate: int, to_rate: int) -> None:
        if rate < 1:
            raise AudioError(f"rate is {rate}; it must be at least 1 sample a second")
        self.rate = rate
        self._half_sample = b""
        # FFmpeg's resampler keeps the filter's tail from piece to piece, so that the seams do not show.
        self._resampler = None if rate == to_rate else AudioResampler(format="fltp", layout="mono", rate=to_rate)

    def decode(self, pcm: Pcm) -> NDArray[np.float32]:
        """The next piece as mono samples in [-1, 1] at its own rate, shape = (n,).

        Args:
            pcm: 16-bit little-endian mono samples as bytes, cut anywhere; or an array as `to_speech` takes it.

        Raises:
            AudioError, InvalidRequest: unusable samples; nothing of the piece was taken.
        """
        if isinstance(pcm, (bytes, bytearray, memoryview)):
            data = self._half_sample + bytes(pcm)
            self._half_sample = data[len(data) // 2 * 2 :]
            pcm = np.frombuffer(data, "<i2", len(data) // 2)
        # Without the notice of `to_speech`, which would come again with every piece.
        return wire.check_speech(to_speech(pcm, self.rate, to_rate=self.rate, notice=lambda sentence: None))

    def convert(self, sound: NDArray[np.float32]) -> NDArray[np.float32]:
        """Decoded samples at the wanted rate, as far as they are finished: the filter keeps back a few."""
        if self._resampler is None or not len(sound):
            return sound
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = self.rate
        return self._resample(frame)

    def finish(self) -> NDArray[np.float32]:
        """What the filter still holds, shape = (n,). Nothing may be pushed after it."""
        return np.zeros(0, np.float32) if self._resampler is None else self._resample(None)

    def _resample(self, frame: av.AudioFrame | None) -> NDArray[np.float32]:
        assert self._resampler is not None
        try:
            blocks = [block.to_ndarray()[0] for block in self._resampler.resample(frame)]
        except ValueError:  # the end of a resampler that was never given anything
            blocks = []
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


class Track:
    """Samples at one rate, from the first that is still needed on.

    Attributes:
        resampler: from what is pushed to the track's rate.
        samples: how many have come, those that were forgotten included.
    """

    def __init__(self, rate: int, to_rate: int) -> None:
        self.resampler = Resampler(rate, to_rate)
        self.samples = 0
        self._kept = bytearray()  # float32 samples from `_base` on; grows and shrinks in place, unlike an array
        self._base = 0

    def push(self, sound: NDArray[np.float32], *, end: bool = False) -> NDArray[np.float32]:
        """Take decoded samples, the last ones if `end`. Returns what was added, at the track's rate."""
        added = self.resampler.convert(sound)
        if end:
            added = np.concatenate([added, self.resampler.finish()])
        self._kept += added.tobytes()
        self.samples += len(added)
        return added

    def forget(self, before: int) -> None:
        """The samples before that one are not needed any more."""
        del self._kept[: max(0, before - self._base) * FLOAT32]
        self._base = max(self._base, before)

    def part(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples start .. stop-1; zeros after the end of what has come."""
        data = bytes(self._kept[(start - self._base) * FLOAT32 : (stop - self._base) * FLOAT32])
        part = np.frombuffer(data, np.float32)
        return np.pad(part, (0, stop - start - len(part)))


class Speech:
    """The samples of one speech, from the first that is still needed on.

    Attributes:
        id: number of the speech in its session.
        rate: samples a second of what is pushed.
        ended: no more samples will come.
        lost: it was dropped, and none of its frames will be shown any more.
        requested: frames that the server was asked for: 0 .. requested-1.
        shown: frames that were handed out: 0 .. shown-1.

    Args:
        sound_rate: samples a second of the sound that frames carry; a multiple of the timeline's fps.
    """

    def __init__(self, number: int, rate: int, timeline: Timeline, sound_rate: int) -> None:
        self.id = number
        self.rate = rate
        self.ended = False
        self.lost = False
        self.requested = 0
        self.shown = 0
        self._timeline = timeline
        self._heard = Track(rate, timeline.sample_rate)  # what the networks hear
        self._sound_size = sound_rate // timeline.fps  # samples a frame
        # What people hear, where that is not what was pushed. Its filter holds back much less than the look-ahead does:
        # what can be shown has its sound.
        self._sound: Track | None = None
        if sound_rate != rate:
            self._sound = self._heard if sound_rate == timeline.sample_rate else Track(rate, sound_rate)
        self._loud = bytearray()  # of every frame's own samples, not its context: is any of them not 0

    def decode(self, pcm: Pcm, rate: int) -> NDArray[np.float32]:
        """The next piece as mono samples. Raises AudioError or InvalidRequest, with nothing of the piece taken."""
        if rate != self.rate:
            raise InvalidRequest(f"rate is {rate}, but this speech began with {self.rate}; end it first")
        return self._heard.resampler.decode(pcm)

    def push(self, sound: NDArray[np.float32], *, end: bool = False) -> None:
        """Take decoded samples, the last ones if `end`."""
        line = self._timeline
        size, before = line.samples_per_frame, self.samples
        if self._sound and self._sound is not self._heard:
            self._sound.push(sound, end=end)
            self._sound.forget(self.shown * self._sound_size)
        speech = self._heard.push(sound, end=end)
        needed = min(self.shown, self.requested) if self._sound is self._heard else self.requested
        self._heard.forget(line.span(needed, 1)[0])
        self._loud.extend(bytes(line.frame_count(self.samples) - len(self._loud)))
        for frame in set(((before + np.flatnonzero(speech)) // size).tolist()):
            self._loud[frame] = 1

    def end(self) -> None:
        """No more samples will come: the rest of the frames become available."""
        self.push(np.zeros(0, np.float32), end=True)
        self.ended = True

    @property
    def samples(self) -> int:
        """How many have come, at the timeline's rate."""
        return self._heard.samples

    @property
    def total(self) -> int:
        """Frames of the speech so far; final once it has ended."""
        return self._timeline.frame_count(self.samples)

    @property
    def finished(self) -> bool:
        """Every frame was shown, and no more will come."""
        return self.ended and self.shown == self.total

    @property
    def waiting(self) -> int:
        """Samples that have come and were not shown yet."""
        return max(0, self.samples - self.shown * self._timeline.samples_per_frame)

    @property
    def available(self) -> int:
        """Frames that can be requested now, after the last requested one."""
        if self.ended:
            return self.total - self.requested
        return max(0, self._timeline.frames_within(self.samples) - self.requested)

    def silent(self, frame: int) -> bool:
        """The frame and its whole context are digital silence, after the beginning of the speech."""
        size, line = self._timeline.samples_per_frame, self._timeline
        first = frame + -line.samples_before // size
        stop = frame + -(-line.samples_after // size)
        return first >= 0 and 1 not in self._loud[first:stop]

    def request(self, count: int, footage_start: int) -> Request:
        """The request for the next `count` frames, which must be available; as `Timeline.cut` would make it."""
        first = self.requested
        start, stop = self._timeline.span(first, count)
        self.requested += count
        return Request(self._heard.part(start, stop), start, False, first, count, footage_start)

    def span(self, frame: int) -> tuple[int, int]:
        """Where the sound of a frame begins and ends in the speech, in samples at the timeline's rate."""
        start = frame * self._timeline.samples_per_frame
        return start, min(start + self._timeline.samples_per_frame, self.samples)

    def pushed(self, frame: int) -> int:
        """How many of the samples that were pushed are heard with a frame."""
        start, stop = (at * self.rate // self._timeline.sample_rate for at in self.span(frame))
        return stop - start

    def sound(self, frame: int, pushed: NDArray[np.float32]) -> NDArray[np.float32]:
        """The sound of a frame that was not shown yet, at the sound's rate.

        Args:
            pushed: the samples that were pushed for it, which are its sound if they have that rate.

        Returns:
            Samples of exactly one frame, the last one filled up with zeros.
        """
        size = self._sound_size
        if self._sound:
            return self._sound.part(frame * size, (frame + 1) * size)
        return np.pad(pushed[:size], (0, max(0, size - len(pushed))))
