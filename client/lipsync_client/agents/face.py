"""A voice agent's face: a live session for pipelines, in which the speech is heard whatever becomes of the pictures."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lipsync_client import wire
from lipsync_client.aio import AsyncClient
from lipsync_client.errors import LipsyncError
from lipsync_client.live.frame import Clock, LiveFrame, LoopClock
from lipsync_client.live.queue import Mark, SpeechPart, SpeechQueue
from lipsync_client.live.session import LiveSession
from lipsync_client.media.audio import to_speech

__all__ = ["AgentFace", "AvatarFrame", "rgb"]

PATIENCE_S = 2.0  # a listener waits no longer for a server than this; then the speech goes on without the mouth
RETRY_S = 2.0  # pause between two questions whether a server is back
BUFFER_S = 30.0  # of sound that waits, as in the session
PAUSE_S = 0.2  # without new sound for so long, what the look-ahead holds back is shown as if silence followed
FPS = 25


def rgb(jpeg: bytes) -> tuple[bytes, tuple[int, int]]:
    """A JPEG's pixels, shape = (height, width, 3), as bytes; and (width, height). Takes milliseconds: use a thread."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return image.convert("RGB").tobytes(), image.size


@dataclass(frozen=True)
class AvatarFrame:
    """What is to be seen and heard for one frame's time.

    Attributes:
        turn: the face's `turn` when this moment was made: if the face's is another now, an interruption has come since.
        jpeg: the picture; None while no server was ever reached.
        sound: int16, shape = (n,): one frame long, or shorter where the speech goes on without the face; None where
            nothing is said.
        rate: its samples a second: the face's `sound_rate`, without the face the rate that was pushed.
        tag: what `push` was given with the first sample of that sound.
        marks: those that have been reached: all sound before them is in this moment or an earlier one.
        error: why the speech goes on without the face; given once when that begins.
    """

    turn: int
    jpeg: bytes | None
    sound: NDArray[np.int16] | None
    rate: int
    tag: Any
    marks: tuple[Any, ...]
    error: LipsyncError | None


class AgentFace:
    """A face for one voice: sound and marks go in, in order; one moment after the other comes out, 25 a second.

    While no server answers, the speech is heard all the same, over the pictures that are here. The next speech after
    a server has come back has its face again.

    >>> await face.open()
    >>> async for moment in face:
    ...     show(moment.jpeg), play(moment.sound)

    Args:
        servers, token, headers: as for `LiveSession`.
        avatar: whose face; a gateway loads it if necessary, and until then the speech goes on without it.
        sound_rate: samples a second of the moments' sound, a multiple of 25.
        clock: where the time comes from; the event loop's own by default.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | AsyncClient = wire.DEFAULT_URL,
        *,
        avatar: str = wire.SHIPPED_AVATAR,
        sound_rate: int,
        clock: Clock | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._clock: Clock = clock or LoopClock()
        self._session = LiveSession(
            servers,
            avatar=avatar,
            sound_rate=sound_rate,
            patience=PATIENCE_S,
            clock=self._clock,
            token=token,
            headers=headers,
        )
        self.sound_rate = sound_rate
        self.turn = 0  # interruptions so far
        self._faceless = SpeechQueue()  # what is heard without the face; the session holds the rest
        self._talking = False  # sound has come since the last end or interruption
        self._rate = 0  # of that sound
        self._last_push = 0.0
        self._passes = False  # what goes in now is heard without the face
        self._opened = False
        self._closed = False
        self._due: float | None = None  # the next moment, until there was a session to tell
        self._report: LipsyncError | None = None
        self._asking: asyncio.Task[None] | None = None  # whether a server is back; while it runs, none is

    @property
    def session(self) -> LiveSession:
        """The live session within; for its facts."""
        return self._session

    @property
    def unheard(self) -> list[SpeechPart]:
        """The sound that was not heard yet."""
        return self._session.unheard + self._faceless.parts

    @property
    def waiting_s(self) -> float:
        """Seconds of it."""
        return self._session.waiting_s + self._faceless.seconds

    @property
    def pending(self) -> bool:
        """Something that went in, be it a mark, has not come out yet."""
        return self._session.pending or bool(self._faceless)

    async def open(self) -> None:
        """Connect. Does not raise if no server answers: a moment will report it, and the speech be heard."""
        try:
            await self._session.open()
            self._opened = True
        except LipsyncError as error:
            await self._lose(error)

    async def push(self, samples: NDArray[Any], rate: int, tag: Any = None) -> None:
        """The next piece of speech. Waits while half a minute of it has not been heard yet.

        Args:
            samples: as for `to_speech`.
            rate: samples a second.
            tag: comes back with the moments that have this sound.

        Raises:
            AudioError, InvalidRequest: unusable samples.
        """
        sound = wire.check_speech(to_speech(samples, rate, to_rate=rate))  # before anything of it waits to be heard
        if not len(sound):
            return
        if self._talking and rate != self._rate:
            await self.end()
        self._choose()
        self._talking, self._rate, self._last_push = True, rate, self._clock.now()
        if self._passes:
            self._faceless.put(SpeechPart(sound, rate, tag))
        else:
            await self._session.push(sound, rate, tag=tag)
        while self._passes and self.waiting_s > BUFFER_S:
            await self._clock.sleep_until(self._clock.now() + 1 / FPS)

    async def end(self) -> None:
        """The speech is complete."""
        if self._talking and not self._passes:
            await self._session.end_speech()
        self._talking = False

    def mark(self, value: Any) -> None:
        """Put a mark behind everything that was pushed. A moment brings it back when it is reached."""
        self._choose()
        (self._faceless if self._passes else self._session).mark(value)

    async def interrupt(self) -> list[SpeechPart | Mark]:
        """Be silent at once. What was not heard yet is dropped. Returns it, and the marks that were not reached."""
        self._talking = False
        self.turn += 1
        return await self._session.interrupt() + self._faceless.clear()

    async def close(self) -> None:
        """End the iterator and every connection."""
        self._closed = True
        if self._asking:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._session.close()

    def __aiter__(self) -> AgentFace:
        return self

    async def __anext__(self) -> AvatarFrame:
        frame = await self._frame()
        sound, rate, tag, marks = None, self.sound_rate, None, frame.marks if frame else ()
        if frame and frame.audio_span:
            sound, tag = frame.audio, frame.tag
        elif self._faceless:
            taken = self._faceless.take(max(1, self._faceless.rate // FPS))
            marks += taken.marks
            if taken.rate:
                sound, rate, tag = taken.samples, taken.rate, taken.tag
        if self._starved(frame):
            await self.end()
        report, self._report = self._report, None
        pcm = None if sound is None else np.clip(np.rint(sound * 32768), -32768, 32767).astype(np.int16)
        return AvatarFrame(self.turn, frame.jpeg if frame else None, pcm, rate, tag, marks, report)

    async def _frame(self) -> LiveFrame | None:
        """The session's next frame, at its time; None, just as often, until there was a session."""
        if self._closed:
            raise StopAsyncIteration
        while self._opened:
            try:
                return await anext(self._session)
            except LipsyncError as error:
                await self._lose(error)
        self._due = max(self._due or 0.0, self._clock.now() - 1 / FPS) + 1 / FPS
        await self._clock.sleep_until(self._due)
        return None

    def _starved(self, frame: LiveFrame | None) -> bool:
        """Nothing is left but what the look-ahead holds back, and no more comes: a pause of the synthesiser."""
        if not self._talking or self._clock.now() - self._last_push < PAUSE_S:
            return False
        if self._passes or frame is None:
            return not self.waiting_s
        line = self._session.timeline
        return not frame.audio_span and self.waiting_s <= line.samples_after / line.sample_rate + 1 / line.fps

    def _choose(self) -> None:
        """Between two speeches: what comes next has a face if there is one and nothing waits to be heard without it."""
        if not self._talking:
            self._passes = self._away or bool(self._faceless)

    @property
    def _away(self) -> bool:
        return not self._opened or bool(self._asking and not self._asking.done())

    async def _lose(self, error: LipsyncError) -> None:
        """The servers are away: all sound that the session has not shown is heard without the face."""
        if not self._asking or self._asking.done():
            self._report = error
            self._asking = asyncio.create_task(self._ask())
        self._passes = True
        for entry in await self._session.interrupt():
            if isinstance(entry, Mark):
                self._faceless.mark(entry.value)
            else:
                self._faceless.put(entry)

    async def _ask(self) -> None:
        """Return when a server is back."""
        while True:
            await self._clock.sleep_until(self._clock.now() + RETRY_S)
            try:
                await self._session.check()
            except LipsyncError:
                continue
            self._opened = True
            return
