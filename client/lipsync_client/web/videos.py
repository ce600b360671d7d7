"""Videos over HTTP: text or a sound file in, a video out while it is made."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipsync_client.aio import AsyncClient
from lipsync_client.errors import AudioError, LipsyncError
from lipsync_client.media.audio import decode, to_speech
from lipsync_client.media.growing import GrowingVideo
from lipsync_client.voices.voices import Voices
from lipsync_client.web.settings import Settings

__all__ = ["Busy", "Progress", "Speech", "Videos"]

LOAD_S = 600.0  # seconds that a load may take: a GPU may compile the network first
REMEMBERED = 200  # videos whose progress can be asked for
AHEAD = 2  # requests in flight for a video: live sessions share the server


class Busy(LipsyncError):
    """As many videos are made as may be at once."""


@dataclass
class Progress:
    """How far a video is. `state`: `working`, `done`, `failed` (`text` says why), or `abandoned` by its caller."""

    id: str
    frames: int  # made so far
    of: int
    state: str = "working"
    text: str = ""


@dataclass(frozen=True)
class Speech:
    """What a video shows and plays.

    Attributes:
        samples: float32 at the server's rate (16 kHz), shape = (n,).
        sound: what is heard: a file, or samples of `rate` samples a second.
    """

    samples: NDArray[np.float32]
    sound: Path | NDArray[np.float32]
    rate: int = 16_000


class Videos:
    """Makes videos, few at once.

    Args:
        client: the lip-sync server.
        voices: speak text; None where there is no synthesiser.
        settings: limits.
    """

    def __init__(self, client: AsyncClient, voices: Voices | None, settings: Settings) -> None:
        self._client, self._voices, self._settings = client, voices, settings
        self._progress: OrderedDict[str, Progress] = OrderedDict()
        self._running = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One of the places for videos. Raises Busy."""
        if self._running >= self._settings.max_videos:
            raise Busy(f"{self._running} videos are being made, as many as may be at once: try again later.")
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def progress(self, name: str) -> Progress | None:
        """Of a video that was begun not long ago."""
        return self._progress.get(name)

    async def of_text(self, text: str, voice: str | None, language: str | None) -> Speech:
        """A text spoken. Raises LipsyncError."""
        if self._voices is None:
            raise LipsyncError("This server has no voice: install espeak-ng or flite there, or send a sound file.")
        pieces, rate, longest = [], 1, 0.0
        async with aclosing(self._voices.speak(text, voice=voice, language=language)) as sounds:
            async for pcm, rate in sounds:
                pieces.append(pcm)
                longest += len(pcm) / 2 / rate
                self._check_length(longest)
        sound = to_speech(np.frombuffer(b"".join(pieces), "<i2"), rate, to_rate=rate)
        timeline = await self._client.timeline()
        return Speech(to_speech(sound, rate, to_rate=timeline.sample_rate), sound, rate)

    async def of_file(self, path: Path) -> Speech:
        """A sound file. Raises LipsyncError, AudioError."""
        rate = (await self._client.timeline()).sample_rate

        def read() -> NDArray[np.float32]:
            blocks, count = [], 0
            for block in decode(path, rate=rate, layout="mono"):
                blocks.append(block[0])
                count += block.shape[1]
                self._check_length(count / rate)  # a small file may hold hours
            return np.concatenate(blocks)

        try:
            return Speech(await asyncio.to_thread(read), path)
        except AudioError:  # its message names a file of this machine
            raise AudioError("That is no sound file that can be read, or there is no sound in it.") from None

    @asynccontextmanager
    async def make(
        self, speech: Speech, avatar: str, kind: str
    ) -> AsyncIterator[tuple[Progress, AsyncIterator[bytes]]]:
        """Begin a video.

        Args:
            speech: what it says.
            avatar: whose face; loaded by the server's gateway if necessary.
            kind: `mp4` or `webm`.

        Yields:
            Its progress, and its bytes as they are made. The first frame is made: what cannot be made raises here.

        Raises:
            LipsyncError: no such avatar, no server, or an unusable format.
        """
        timeline = await self._client.timeline()
        await self._client.avatar(avatar, timeout=LOAD_S)
        progress = Progress(secrets.token_urlsafe(12), 0, timeline.frame_count(len(speech.samples)))
        mark = self._settings.mark
        with GrowingVideo(kind, fps=timeline.fps, sound=speech.sound, sound_rate=speech.rate, mark=mark) as video:
            async with aclosing(self._pieces(speech, avatar, video, progress)) as pieces:
                first = await anext(pieces)
                self._progress[progress.id] = progress
                if len(self._progress) > REMEMBERED:
                    self._progress.popitem(last=False)
                try:
                    yield progress, _chained(first, pieces)
                finally:
                    if progress.state == "working":
                        progress.state = "abandoned"

    async def _pieces(
        self, speech: Speech, avatar: str, video: GrowingVideo, progress: Progress
    ) -> AsyncGenerator[bytes, None]:
        rendered = self._client.render(speech.samples, avatar=avatar, in_flight=AHEAD)
        try:
            async with aclosing(rendered) as frames:
                async for frame in frames:
                    data = await _in_thread(video.add, frame)
                    progress.frames += 1
                    yield data
            data = await _in_thread(video.finish)
        except LipsyncError as failure:
            progress.state, progress.text = "failed", str(failure)
            raise
        progress.state = "done"
        yield data

    def _check_length(self, seconds: float) -> None:
        if seconds > self._settings.video_s:
            raise LipsyncError(f"A video may be {self._settings.video_s:g} s long at most.")


async def _in_thread(work: Callable[..., bytes], *values: Any) -> bytes:
    """Encode in a thread, because it takes milliseconds. Wait for it in any case: then the encoder may be closed."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *values))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


def temporary_file() -> tempfile._TemporaryFileWrapper[bytes]:
    """For an upload."""
    return tempfile.NamedTemporaryFile(prefix="lipsync-")
