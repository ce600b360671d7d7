"""A Pipecat service: between the speech synthesiser and the output transport, it gives the bot a face.

    Pipeline([transport.input(), stt, context.user(), llm, tts, LipsyncVideoService(), transport.output(), ...])

Needs the `pipecat` extra of this package.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lipsync_client import wire
from lipsync_client.agents.face import FPS, AgentFace, AvatarFrame, rgb
from lipsync_client.aio import AsyncClient
from lipsync_client.extras import needs
from lipsync_client.live.queue import SpeechPart

with needs("pipecat"):
    from pipecat.frames.frames import (
        CancelFrame,
        EndFrame,
        Frame,
        InterruptionFrame,
        OutputImageRawFrame,
        StartFrame,
        SystemFrame,
        TTSAudioRawFrame,
        TTSStartedFrame,
        TTSStoppedFrame,
    )
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
    from pipecat.services.ai_service import AIService
    from pipecat.services.settings import ServiceSettings
    from pipecat.utils.errors import ErrorCategory

__all__ = ["LipsyncVideoService"]

CUSHION_FRAMES = 2  # silence before a speech: the transport's sound must not run dry when a frame is some ms late
DRAIN_S = 10.0  # beyond this, and the length of what is to be heard, an ending pipeline does not wait


class Origin(NamedTuple):
    """What a piece of sound has from the frame that it came in."""

    context_id: str | None
    interruptible: bool


def keeps(mark: Any) -> bool:
    """It outlives an interruption."""
    return isinstance(mark, asyncio.Event) or not mark.interruptible


class LipsyncVideoService(AIService):
    """Turns `TTSAudioRawFrame`s into images and the sound that belongs to them.

    Whatever follows speech in the pipeline (`TTSStoppedFrame`, text, ..) waits until that speech has been handed to
    the transport, as it would behind the sound itself; system frames and frames with a time of their own do not.
    Frames that are not `interruptible` outlive an interruption, their sound too. While no server answers, one error
    is pushed and the speech is heard without the mouth moving.

    Args:
        servers, token, headers: as for `LiveSession`.
        avatar: whose face. The transport wants its size, see `AsyncClient.avatar`.
        kwargs: for `AIService`, such as `name`.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | AsyncClient = wire.DEFAULT_URL,
        *,
        avatar: str = wire.SHIPPED_AVATAR,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(settings=ServiceSettings(model=avatar), **kwargs)
        self._servers, self._avatar = servers, avatar
        self._token, self._headers = token, headers
        self._face: AgentFace | None = None
        self._showing: asyncio.Task[None] | None = None
        self._output = asyncio.Lock()  # what belongs together is pushed together, and nothing old after an interruption
        self._restored = asyncio.Event()  # what an interruption may not drop is back, before anything that came later
        self._restored.set()
        self._drained = asyncio.Event()
        self._speaking = False  # the last moment had sound

    def can_generate_metrics(self) -> bool:
        """Time to first byte: from a speech's first sound to its first frame."""
        return True

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override] # as Pipecat itself does
        """Connect, while the other processors do."""
        await super().setup(setup)
        self._face = AgentFace(
            self._servers,
            avatar=self._avatar,
            sound_rate=setup.audio_out_sample_rate,
            token=self._token,
            headers=self._headers,
        )
        await self._face.open()

    async def stop(self, frame: EndFrame) -> None:
        """Wait until everything was shown that came before the end."""
        await super().stop(frame)
        await self._restored.wait()
        if self._face and self._showing and self._face.pending:
            await self._face.end()
            self._face.mark(self._drained)
            try:
                await asyncio.wait_for(self._drained.wait(), self._face.waiting_s + DRAIN_S)
            except asyncio.TimeoutError:
                await self.push_error("the avatar's last speech was not shown in time")
        await self._close()

    async def cancel(self, frame: CancelFrame) -> None:
        """Drop everything."""
        await super().cancel(frame)
        await self._close()

    async def cleanup(self) -> None:
        """End the connections."""
        await super().cleanup()  # type: ignore[no-untyped-call]
        await self._close()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Take speech, keep the order of everything else."""
        await super().process_frame(frame, direction)
        if isinstance(frame, StartFrame):
            await self.push_frame(frame, direction)  # before any picture
            self._showing = self.create_task(self._show())
        elif isinstance(frame, InterruptionFrame) and self._face:
            await self._interrupt(self._face, frame, direction)
        elif not self._face or direction is FrameDirection.UPSTREAM or isinstance(frame, SystemFrame) or frame.pts:
            await self.push_frame(frame, direction)
        else:
            await self._take(self._face, frame)

    async def _take(self, face: AgentFace, frame: Frame) -> None:
        """Speech, or what keeps its place in it."""
        await self._restored.wait()
        if isinstance(frame, TTSAudioRawFrame):
            sound = np.frombuffer(frame.audio, np.int16).reshape(-1, frame.num_channels)
            await face.push(sound, frame.sample_rate, Origin(frame.context_id, frame.interruptible))
        else:
            await self._follow(face, frame)

    async def _follow(self, face: AgentFace, frame: Frame) -> None:
        """Push a frame when all speech before it has been handed on."""
        if isinstance(frame, TTSStartedFrame):
            await self.start_ttfb_metrics()
        elif isinstance(frame, TTSStoppedFrame):
            await face.end()
        async with self._output:
            if face.pending:
                face.mark(frame)
            else:
                await self.push_frame(frame)

    async def _show(self) -> None:
        """Push the moments as they come."""
        assert self._face is not None
        async for moment in self._face:
            if moment.error:
                await self.push_error(
                    f"the speech goes on without the avatar: {moment.error}",
                    exception=moment.error,
                    category=ErrorCategory.CONNECTIVITY,
                )
            picture = await asyncio.to_thread(rgb, moment.jpeg) if moment.jpeg else None
            async with self._output:
                if moment.turn == self._face.turn:
                    await self._push_moment(moment, picture)
                else:
                    await self._push_marks(frame for frame in moment.marks if keeps(frame))

    async def _push_moment(self, moment: AvatarFrame, picture: tuple[bytes, tuple[int, int]] | None) -> None:
        """Push a picture, then the sound that begins with it, then what comes after it."""
        begins = moment.sound is not None and not self._speaking
        self._speaking = moment.sound is not None
        if begins:
            await self.stop_ttfb_metrics()
            await self._push_sound(np.zeros(CUSHION_FRAMES * moment.rate // FPS, np.int16), moment)
        if picture:
            image = OutputImageRawFrame(image=picture[0], size=picture[1], format="RGB")
            image.sync_with_audio = True
            await self.push_frame(image)
        if moment.sound is not None:
            await self._push_sound(moment.sound, moment)
        await self._push_marks(moment.marks)

    async def _push_sound(self, sound: NDArray[np.int16], moment: AvatarFrame) -> None:
        frame = TTSAudioRawFrame(sound.tobytes(), moment.rate, 1, context_id=moment.tag.context_id)
        frame.interruptible = moment.tag.interruptible
        await self.push_frame(frame)

    async def _push_marks(self, marks: Iterable[Any]) -> None:
        for mark in marks:
            if mark is self._drained:
                self._drained.set()
            else:
                await self.push_frame(mark)

    async def _interrupt(self, face: AgentFace, frame: InterruptionFrame, direction: FrameDirection) -> None:
        """Drop what may be dropped. What may not goes on; where other speech waited too, after a moment's pause."""
        waiting = face.unheard
        if waiting and not any(part.tag.interruptible for part in waiting):
            await self.push_frame(frame, direction)
            return
        self._restored.clear()
        try:
            async with self._output:
                self._speaking = False
                dropped = await face.interrupt()
                await self.push_frame(frame, direction)
            for entry in dropped:
                if isinstance(entry, SpeechPart):
                    if not entry.tag.interruptible:
                        await face.push(entry.samples, entry.rate, entry.tag)
                elif entry.value is self._drained:
                    face.mark(entry.value)
                elif keeps(entry.value):
                    await self._follow(face, entry.value)
        finally:
            self._restored.set()

    async def _close(self) -> None:
        if self._showing:
            await self.cancel_task(self._showing)
            self._showing = None
        if self._face:
            await self._face.close()
            self._face = None
