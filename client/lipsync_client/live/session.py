"""Live speech: audio goes in as it is made, the frames of a talking face come out at a steady rate."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from lipsync_client import wire
from lipsync_client.aio import AsyncClient
from lipsync_client.answers import Avatar
from lipsync_client.errors import InvalidRequest, LipsyncError
from lipsync_client.live.footage import Footage
from lipsync_client.live.frame import Clock, LiveFrame, LoopClock
from lipsync_client.live.queue import Mark, SpeechPart, SpeechQueue
from lipsync_client.live.scheduler import FrameScheduler, Pace
from lipsync_client.live.selector import FrameSelector
from lipsync_client.live.servers import Servers
from lipsync_client.live.speech import Pcm, Speech, checked_sound_rate
from lipsync_client.timeline import Timeline

__all__ = ["LiveSession"]

LATE_S = 0.2  # a consumer that is later than this delays the session; what is less it may catch up with


class LiveSession:
    """A face that listens to speech while it is made. For one event loop, one producer and one consumer.

    >>> async with LiveSession("127.0.0.1:8001") as session:
    ...     speaker = asyncio.create_task(speak(session))  # awaits session.push(pcm, 24000) .., session.end_speech()
    ...     async for frame in session:                    # 25 a second, for ever; idle ones in between
    ...         show(frame.jpeg), play(frame.audio)

    A failure that patience and the other addresses did not mend is raised once, by the iterator. What was pushed is not
    shown any more then, and `interrupt` returns it. Iterate again to go on, idle until the next push.

    Args:
        servers: the server's address, as for `Client`, or several, tried in turn; or an `AsyncClient`, which many
            sessions may share and which stays open.
        avatar: whose face.
        pictures: "frames" gives whole frames; "patches" gives talking frames as plain footage and a patch, about a
            tenth of the bytes from the server. Of avatars that were packed by an older version come whole frames.
        sound_rate: samples a second of the frames' `audio`, a multiple of the 25 frames a second; the timeline's rate
            (16 kHz) by default. With the rate that is pushed, the very samples that were pushed come out.
        first_chunk: frames of the first request of a speech: few, to show it soon. More, up to half of `chunk`, for a
            while after frames were late.
        chunk: frames of a request at most; they grow to this while frames are ahead of their time.
        in_flight: requests for talking frames in flight at once.
        ahead_s: seconds of talking frames that are rendered ahead at most, those in flight included.
        buffer_s: seconds of sound that wait to be shown at most, and one more; `push` waits while there are more.
        idle_bytes: memory for the idle frames, which are fetched once if they fit; as much again for frames of silence.
        timeout: seconds that one attempt of a request may take; with an `AsyncClient`, its own holds for its questions.
        patience: seconds after which a request that keeps failing is given up, if that is sooner than by default.
        clock: where the time comes from; the event loop's own by default.
        token, headers: as for `Client`; an `AsyncClient` has its own.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | AsyncClient = wire.DEFAULT_URL,
        *,
        avatar: str = wire.SHIPPED_AVATAR,
        pictures: Literal["frames", "patches"] = "frames",
        sound_rate: int | None = None,
        first_chunk: int = 4,
        chunk: int = 16,
        in_flight: int = 2,
        ahead_s: float = 2.0,
        buffer_s: float = 30.0,
        idle_bytes: int = 64 << 20,
        timeout: float = 5.0,
        patience: float | None = None,
        clock: Clock | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._clock: Clock = clock or LoopClock()
        self._servers = Servers(
            servers, avatar, timeout=timeout, patience=patience, clock=self._clock, token=token, headers=headers
        )
        self._pace = Pace(first_chunk, chunk, in_flight, ahead_s, buffer_s)
        if pictures not in ("frames", "patches"):
            raise InvalidRequest(f"pictures is {pictures!r}; allowed: 'frames', 'patches'")
        self._pictures = pictures
        self._asked_sound_rate = sound_rate
        self._idle_bytes = idle_bytes
        self._queue = SpeechQueue()
        self._opening = asyncio.Lock()
        self._pushing = asyncio.Lock()
        self._progress = asyncio.Event()  # something was shown or dropped: a push that waits may look again
        self._closed = False
        self._start: float | None = None  # when frame 0 is due, moved by the delays of a slow consumer; None: not open

    async def open(self) -> None:
        """Connect, and fetch the first idle frames; otherwise done at the first use. Raises LipsyncError."""
        async with self._opening:
            if self._closed:
                raise LipsyncError("this session is closed")
            if self._start is not None:
                return
            self._timeline = await self._servers.timeline()
            self._pace.check(self._timeline)
            self._sound_rate = checked_sound_rate(self._asked_sound_rate, self._timeline)
            self._footage = Footage(self._servers, await self._servers.avatar(), self._idle_bytes)
            await self._footage.fetch(0)
            patches = self._pictures == "patches" and await self._servers.gives_patches()
            self._talk = FrameScheduler(
                self._servers, self._footage, self._timeline, self._clock, self._pace, patches=patches
            )
            self._frames = FrameSelector(self._talk, self._footage, self._queue, self._timeline, self._sound_rate)
            self._start = self._clock.now()

    @property
    def timeline(self) -> Timeline:
        """The server's clock. The session must be open."""
        return self._timeline

    @property
    def sound_rate(self) -> int:
        """Samples a second of the frames' `audio`. The session must be open."""
        return self._sound_rate

    @property
    def avatar(self) -> Avatar:
        """The avatar's facts. The session must be open."""
        return self._footage.avatar

    async def check(self) -> None:
        """Return when a server answers and has the avatar. Raises LipsyncError once that is given up."""
        await self.open()
        await self._servers.avatar()

    @property
    def unheard(self) -> list[SpeechPart]:
        """The sound that was pushed and not shown yet, in order."""
        return self._queue.parts

    @property
    def waiting_s(self) -> float:
        """Seconds of it."""
        return self._queue.seconds

    @property
    def pending(self) -> bool:
        """Something that went in, be it a mark, has not come out yet."""
        return bool(self._queue)

    async def push(self, pcm: Pcm, rate: int, *, tag: Any = None) -> int | None:
        """Give the next piece of speech, of any length. The first one after an end or an interruption begins a speech.

        Waits while `buffer_s` seconds of sound have not been shown yet. An interruption meanwhile returns the rest;
        cancelling the push forgets it.

        Args:
            pcm: 16-bit little-endian mono samples as bytes; or an array of floats in [-1, 1] or integers in their full
                range, shape = (n,) or (n, channels) with n >= channels.
            rate: samples a second; the same throughout a speech.
            tag: comes back with the frames of this sound.

        Returns:
            The speech's id: 1, 2, ..; None if an interruption came before any of it was taken.

        Raises:
            AudioError, InvalidRequest: unusable samples or another rate; nothing was taken.
            LipsyncError: the session is closed, or could not be opened.
        """
        await self.open()
        drops = self._talk.drops
        async with self._pushing:
            if self._dropped(drops):
                return None
            growing = self._talk.growing
            speech = growing or self._begin(rate)
            try:
                sound = speech.decode(pcm, rate)
            except Exception:
                if speech is not growing:  # nothing was taken: the next push may begin another one
                    self._talk.end(speech)
                raise
            del pcm  # the queue has it now
            entry = self._queue.put(SpeechPart(sound, rate, tag), speech)
            taken = 0
            try:
                while taken < len(sound) and await self._room(drops):
                    speech.push(sound[taken : taken + rate])  # a second at a time: no piece passes the bound by more
                    taken += rate
                    self._talk.pump()
                    await asyncio.sleep(0)  # a producer that never waits must not hold up the frames
            except asyncio.CancelledError:
                self._queue.withdraw(entry, len(sound) - taken)
                raise
        return speech.id

    def mark(self, value: Any) -> None:
        """Put a mark behind everything that was pushed.

        It comes back in `LiveFrame.marks`, with the frame at which all sound before it has been shown.
        """
        self._queue.mark(value)

    async def end_speech(self) -> int | None:
        """The speech is complete: its last frames are rendered as if silence followed.

        Returns:
            The speech's id; None if there is no speech or no sound in it, so that no frame will be its last.
        """
        async with self._pushing:
            speech = self._talk.growing if self._start is not None else None
            if speech and self._talk.end(speech):
                return speech.id
            if speech:  # too short for a frame
                self._queue.forget(speech)
            return None

    async def interrupt(self) -> list[SpeechPart | Mark]:
        """Be silent at once: the frame after this call is idle. What is pushed after it begins a new speech.

        Everything that was pushed and not shown is dropped, in every queue, and the requests in flight are cancelled.

        Returns:
            The sound that was not shown and the marks that were not reached, in order.
        """
        if self._start is not None:
            self._talk.drop()
            self._frames.stop_speaking()
            self._progress.set()
        return self._queue.clear()

    async def close(self) -> None:
        """End the session: the iterator stops. Requests in flight are cancelled."""
        if self._closed:
            return
        self._closed = True
        if self._start is not None:
            calls = self._talk.drop()
            self._progress.set()
            await asyncio.gather(*calls, self._footage.close(), return_exceptions=True)
        await self._servers.close()

    async def __aenter__(self) -> LiveSession:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> LiveSession:
        return self

    async def __anext__(self) -> LiveFrame:
        """The next frame, at its time. Cancelling it loses nothing. Raises LipsyncError as described above."""
        if self._closed:
            raise StopAsyncIteration
        await self.open()
        assert self._start is not None
        due, now = self._start + self._timeline.time(self._frames.index), self._clock.now()
        if now > due + LATE_S:
            self._start += now - due
        await self._clock.sleep_until(due)  # also if it is past: others must have their turn
        if self._closed:
            raise StopAsyncIteration
        if self._talk.failure:
            failure, self._talk.failure = self._talk.failure, None
            self._frames.stop_speaking()
            self._progress.set()
            raise failure
        frame = self._frames.next()
        self._progress.set()
        return frame

    def _begin(self, rate: int) -> Speech:
        self._footage.start_refresh()  # a replaced avatar is noticed when somebody speaks
        return self._talk.begin(rate, self._sound_rate)

    async def _room(self, drops: int) -> bool:
        """Wait until less than `buffer_s` of sound waits. False if it was dropped meanwhile."""
        limit = self._pace.buffer_s * self._timeline.sample_rate
        while not self._dropped(drops) and self._talk.waiting >= limit:
            self._progress.clear()
            await self._progress.wait()
        return not self._dropped(drops)

    def _dropped(self, drops: int) -> bool:
        """Whether everything was dropped since there were so many drops. Raises LipsyncError if the session ended."""
        if self._closed:
            raise LipsyncError("this session is closed")
        return drops != self._talk.drops
