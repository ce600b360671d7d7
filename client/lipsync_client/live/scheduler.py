"""From pushed speech to talking frames: what to request when, and the frames in the order of showing."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, replace

from lipsync_client import wire
from lipsync_client.answers import Patch
from lipsync_client.errors import InvalidRequest
from lipsync_client.live.footage import Footage
from lipsync_client.live.frame import Clock
from lipsync_client.live.servers import Servers
from lipsync_client.live.speech import Speech
from lipsync_client.timeline import Request, Timeline

__all__ = ["FrameScheduler", "Pace", "Slot"]

START_S = 0.2  # how long the first request of a speech is expected to take, until one was measured
MAX_START_S = 1.0


@dataclass(frozen=True)
class Pace:
    """How much is requested at once; the fields are described at `LiveSession`."""

    first_chunk: int
    chunk: int
    in_flight: int
    ahead_s: float
    buffer_s: float

    def check(self, timeline: Timeline) -> None:
        """Raise InvalidRequest unless a session can run so."""
        timeline.check_chunks(self.first_chunk, self.chunk)
        if self.in_flight < 1:
            raise InvalidRequest(f"in_flight is {self.in_flight}; it must be at least 1")
        needed = (timeline.samples_after + self.first_chunk * timeline.samples_per_frame) / timeline.sample_rate
        if self.buffer_s < needed:
            raise InvalidRequest(
                f"buffer_s is {self.buffer_s}; the first {self.first_chunk} frames already need {needed:.2f} s of sound"
            )


@dataclass
class Slot:
    """A talking frame that was requested and not shown yet: of which speech, and on which position of the footage."""

    speech: Speech
    frame: int
    position: int
    picture: bytes | Patch | None = None


class FrameScheduler:
    """The speeches of a session that were not wholly shown yet, and their frames.

    Attributes:
        position: the footage's position that was shown last; the session keeps it while idle.
        failure: why everything was dropped, until somebody reports it.
        drops: how often everything was dropped.
    """

    def __init__(
        self, servers: Servers, footage: Footage, timeline: Timeline, clock: Clock, pace: Pace, *, patches: bool
    ) -> None:
        self.position = -1
        self.failure: Exception | None = None
        self.drops = 0
        self._servers, self._footage = servers, footage
        self._timeline, self._clock, self._pace, self._patches = timeline, clock, pace, patches
        self._limit = max(pace.chunk, round(pace.ahead_s * timeline.fps))  # frames ahead, in flight included
        self._speeches: deque[Speech] = deque()  # in the order of showing; only the last may still grow
        self._slots: deque[Slot] = deque()  # in the order of showing
        self._calls: set[asyncio.Task[None]] = set()
        self._next_id = 1
        # Frames that must be here before speech that was late goes on, and that a request has at least, up to half a
        # chunk. Few, to begin soon; twice as many with every time that frames are late, half as many after a speech in
        # which none was.
        self._reserve = pace.first_chunk
        sound = int(pace.buffer_s * timeline.sample_rate) - timeline.samples_after
        self._most = min(self._limit // 2, sound // timeline.samples_per_frame)  # more would wait for ever
        self._stalled = False  # the next frame is late
        self._was_late = False  # frames of the speech that was shown last were
        self._latencies: deque[float] = deque([START_S], maxlen=3)  # s, of requests that had no frames ahead of them

    @property
    def growing(self) -> Speech | None:
        """The speech that was begun and not ended."""
        return self._speeches[-1] if self._speeches and not self._speeches[-1].ended else None

    @property
    def waiting(self) -> int:
        """Samples that were pushed and not shown."""
        return sum(speech.waiting for speech in self._speeches)

    @property
    def head(self) -> Slot | None:
        """The next talking frame, if one was requested."""
        return self._slots[0] if self._slots else None

    def ready(self) -> bool:
        """The next talking frame may be shown.

        It must be here, and when it was late, so must some of those behind it. A server that is too slow then makes few
        long pauses instead of many short ones.
        """
        here = next((number for number, slot in enumerate(self._slots) if slot.picture is None), len(self._slots))
        if here:
            return not self._stalled or here >= self._reserve or not self._calls
        head = self.head
        if head and head.frame and head.position == self.position + 1 and not self._stalled:
            self._stalled = True
            self._was_late = True
            self._reserve = min(2 * self._reserve, self._most)
        return False

    def begin(self, rate: int, sound_rate: int) -> Speech:
        """Start a speech, to be shown after those that are here."""
        speech = Speech(self._next_id, rate, self._timeline, sound_rate)
        self._next_id += 1
        self._speeches.append(speech)
        return speech

    def end(self, speech: Speech) -> bool:
        """Complete the speech that grows. False if it has no frames and is forgotten."""
        speech.end()
        if not speech.total:
            self._speeches.remove(speech)
        self.pump()
        return bool(speech.total)

    def take(self) -> Slot:
        """Remove the next talking frame, because it is shown now."""
        slot = self._slots.popleft()
        slot.speech.shown = slot.frame + 1
        self.position = slot.position
        self._stalled = False
        if not slot.frame:
            if not self._was_late:
                self._reserve = max(self._reserve // 2, self._pace.first_chunk)
            self._was_late = False
        if slot.speech.finished:
            self._speeches.popleft()
        self.pump()
        return slot

    def drop(self, failure: Exception | None = None) -> list[asyncio.Task[None]]:
        """Forget every speech and frame that was not shown. Returns the cancelled requests."""
        self.drops += 1
        self.failure = failure or self.failure
        self._stalled = False
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        self._calls.clear()
        self._slots.clear()
        for speech in self._speeches:
            speech.lost = True
        self._speeches.clear()
        return calls

    def pump(self) -> None:
        """Send what can be sent now.

        A request has at most half as many frames as are already ahead of it, so that those are shown while it is
        rendered; it waits until the speech allows as many, or has ended.
        """
        pace = self._pace
        while True:
            speech = next((some for some in self._speeches if not some.ended or some.available), None)
            if speech is None:
                return
            if self._fill_silence(speech):
                continue
            least = max(pace.first_chunk, min(self._reserve, pace.chunk // 2))
            size = min(max(least, len(self._slots) // 2), pace.chunk)
            if speech.ended:
                size = min(size, speech.available)
            full = len(self._calls) >= pace.in_flight or len(self._slots) + size > self._limit
            if full or speech.available < size:
                return
            self._send(speech, size)

    def _fill_silence(self, speech: Speech) -> bool:
        """Queue the speech's next frame without a request, if it is of silence and such a picture is here."""
        if not (speech.available and speech.silent(speech.requested) and len(self._slots) < self._limit):
            return False
        position = self._slots[-1].position + 1 if self._slots else self.position + 1
        picture = self._footage.silent(position)
        if picture is None:
            return False
        self._slots.append(Slot(speech, speech.requested, position, picture))
        speech.requested += 1
        return True

    def _send(self, speech: Speech, count: int) -> None:
        begins = not self._slots
        if begins:  # idle frames go on while it is rendered
            position = self.position + 1 + math.ceil(min(max(self._latencies), MAX_START_S) * self._timeline.fps)
        else:
            position = self._slots[-1].position + 1
        first = speech.requested
        for offset in range(1, count):
            if speech.silent(first + offset) and self._footage.silent(position + offset):
                count = offset  # the rest needs no request
                break
        slots = [Slot(speech, first + offset, position + offset) for offset in range(count)]
        self._slots.extend(slots)
        request = replace(speech.request(count, position), patches=self._patches)
        self._calls.add(asyncio.create_task(self._fetch(slots, request, begins)))

    async def _fetch(self, slots: list[Slot], request: Request, begins: bool) -> None:
        call = asyncio.current_task()
        assert call is not None
        sent, avatar = self._clock.now(), self._footage.avatar
        try:
            pictures = wire.pictures_of(await self._servers.render(request), request)
            if not all(self._footage.fits(picture) for picture in pictures):
                await self._footage.refresh()  # the avatar was replaced
        except Exception as failure:  # whatever it is, the consumer must learn of it
            self._calls.discard(call)
            self.drop(failure)
            return
        for slot, picture in zip(slots, pictures, strict=True):
            slot.picture = picture
            if slot.speech.silent(slot.frame):
                self._footage.keep_silent(avatar, slot.position, picture)
        if begins:
            self._latencies.append(self._clock.now() - sent)
        self._calls.discard(call)
        self.pump()
