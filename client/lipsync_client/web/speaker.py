"""What one browser wants said, in order, given to its live session."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial

from lipsync_client.errors import LipsyncError
from lipsync_client.live.session import LiveSession
from lipsync_client.voices.voice import Sound
from lipsync_client.voices.voices import Voices
from lipsync_client.web.protocol import Refused
from lipsync_client.web.settings import Settings
from lipsync_client.web.words import VoiceError

__all__ = ["Speaker"]


class Speaker:
    """Sound, ends and texts wait here for their turn, because a session takes sound only as fast as it shows it.

    What the session has taken is held there and not here.

    Args:
        session: takes the sound.
        voices: speak text; None where there is no synthesiser.
        settings: limits.
        report: is told why something could not be said.
    """

    def __init__(
        self,
        session: LiveSession,
        voices: Voices | None,
        settings: Settings,
        report: Callable[[LipsyncError], Awaitable[None]],
    ) -> None:
        self._session = session
        self._voices = voices
        self._settings = settings
        self._report = report
        self._queue: deque[tuple[float, Callable[[], Awaitable[object]]]] = deque()  # seconds of sound; what to do
        self._wake = asyncio.Event()
        self._work: asyncio.Future[object] | None = None

    @property
    def busy(self) -> bool:
        """Something waits or is being given."""
        return bool(self._queue or self._work)

    def sound(self, rate: int, pcm: bytes) -> None:
        """Say this sound next. Raises Refused if too much waits already."""
        self._add(len(pcm) / 2 / rate, partial(self._session.push, pcm, rate))

    def end(self) -> None:
        """The speech is complete. Raises Refused."""
        self._add(0.0, self._session.end_speech)

    def say(self, text: str, voice: str | None = None, language: str | None = None) -> None:
        """Say a text next, as a speech of its own; `voice` and `language` as in `Voices.speak`. Raises Refused."""
        if self._voices is None:
            raise Refused("voice", "This page cannot speak text.")
        if len(text) > self._settings.text_chars:
            raise Refused("text", f"The text has {len(text)} characters; {self._settings.text_chars} are allowed.")
        sounds = partial(self._voices.speak, text, voice=voice, language=language)
        self._add(1.0, partial(self._say, sounds))  # a second stands for the work that a text is

    async def interrupt(self) -> None:
        """Forget what waits, and be silent."""
        self.forget()
        await self._session.interrupt()

    def forget(self) -> None:
        """Forget what waits."""
        self._queue.clear()
        if self._work:
            self._work.cancel()

    async def run(self) -> None:
        """Give one after the other, for ever."""
        try:
            while True:
                while not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                self._work = asyncio.ensure_future(self._queue.popleft()[1]())
                await asyncio.wait([self._work])
                done, self._work = self._work, None
                if done.cancelled():
                    continue
                failure = done.exception()
                if isinstance(failure, LipsyncError):
                    await self._report(failure)
                elif failure:
                    raise failure
        finally:
            self.forget()

    def _add(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        # An end without sound counts too: nothing that a browser sends is free.
        waiting = sum(seconds for seconds, _ in self._queue)
        if waiting + seconds > self._settings.waiting_s or len(self._queue) > 50 * self._settings.waiting_s:
            raise Refused(
                "too_much", f"More than {self._settings.waiting_s:.0f} s of sound wait already: this is left out."
            )
        self._queue.append((seconds, work))
        self._wake.set()

    async def _say(self, speak: Callable[[], AsyncGenerator[Sound, None]]) -> None:
        await self._session.end_speech()
        try:
            async with aclosing(_told(speak())) as sounds:
                async for sound in sounds:
                    await self._session.push(*sound)
        finally:
            await self._session.end_speech()


async def _told(sounds: AsyncGenerator[Sound, None]) -> AsyncGenerator[Sound, None]:
    """The sounds of a text; why it cannot be spoken is told to whoever wrote it."""
    try:
        async with aclosing(sounds):
            async for sound in sounds:
                yield sound
    except LipsyncError as error:
        raise VoiceError(str(error)) from None
