"""A bot with a face, in the browser: Pipecat's own development page, no account anywhere.

    python examples/pipecat/bot.py          # then open the address that it prints

Without a key it says a recording, again whenever you stop speaking, and falls silent when you speak. With
OPENAI_API_KEY it converses: OpenAI hears, thinks and speaks.

Settings, all from the environment: LIPSYNC_SERVER (127.0.0.1:8001), LIPSYNC_AVATAR (demo), SPEECH
(samples/speech.wav).
"""

from __future__ import annotations

import os
import sys

INSTALL = "Install what it needs: pip install 'lipsync-triton[pipecat]' 'pipecat-ai[webrtc,runner,openai]'"

try:
    import numpy as np
    from pipecat.audio.vad.silero import SileroVADAnalyzer
    from pipecat.frames.frames import (
        Frame,
        LLMRunFrame,
        TTSAudioRawFrame,
        TTSSpeakFrame,
        TTSStartedFrame,
        TTSStoppedFrame,
        VADUserStartedSpeakingFrame,
        VADUserStoppedSpeakingFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineParams, PipelineWorker
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
    from pipecat.processors.audio.vad_processor import VADProcessor
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
    from pipecat.runner.types import RunnerArguments
    from pipecat.runner.utils import create_transport
    from pipecat.transports.base_transport import BaseTransport, TransportParams
    from pipecat.workers.runner import WorkerRunner

    from lipsync_client import AsyncClient, Client, LipsyncError, read_audio
    from lipsync_client.agents.pipecat import LipsyncVideoService
except ImportError as error:
    sys.exit(f"{error}. {INSTALL}")

RATE = 24_000
SERVER = os.environ.get("LIPSYNC_SERVER", "127.0.0.1:8001")
AVATAR = os.environ.get("LIPSYNC_AVATAR", "demo")
SPEECH = os.environ.get("SPEECH", "samples/speech.wav")


class RecordedVoice(FrameProcessor):
    """Stands where a synthesiser stands. Speaks a recording for any `TTSSpeakFrame`, and when the user falls silent."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._sound = np.clip(np.rint(read_audio(path, rate=RATE) * 32768), -32768, 32767).astype(np.int16)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, VADUserStartedSpeakingFrame):
            await self.broadcast_interruption()
        if isinstance(frame, TTSSpeakFrame):
            await self._speak()
        else:
            await self.push_frame(frame, direction)
        if isinstance(frame, VADUserStoppedSpeakingFrame):
            await self._speak()

    async def _speak(self) -> None:
        await self.push_frame(TTSStartedFrame())
        for start in range(0, len(self._sound), RATE // 10):
            await self.push_frame(TTSAudioRawFrame(self._sound[start : start + RATE // 10].tobytes(), RATE, 1))
        await self.push_frame(TTSStoppedFrame())


def recording(transport: BaseTransport, face: LipsyncVideoService) -> tuple[Pipeline, Frame]:
    """The pipeline that needs no key, and the frame that makes it speak first."""
    hearing = VADProcessor(vad_analyzer=SileroVADAnalyzer())
    parts = [transport.input(), hearing, RecordedVoice(SPEECH), face, transport.output()]
    return Pipeline(parts), TTSSpeakFrame("whatever is on the recording")


def conversation(transport: BaseTransport, face: LipsyncVideoService) -> tuple[Pipeline, Frame]:
    """The pipeline that converses, and the frame that makes it speak first."""
    from pipecat.services.openai.llm import OpenAILLMService
    from pipecat.services.openai.stt import OpenAISTTService
    from pipecat.services.openai.tts import OpenAITTSService

    key = os.environ["OPENAI_API_KEY"]
    model = OpenAILLMService(
        api_key=key,
        settings=OpenAILLMService.Settings(
            system_instruction="You speak with a visitor. Answer in one or two short sentences, without lists or signs."
        ),
    )
    context = LLMContextAggregatorPair(
        LLMContext([{"role": "developer", "content": "Greet the visitor."}]),
        user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer()),
    )
    parts = [
        transport.input(),
        OpenAISTTService(api_key=key),
        context.user(),
        model,
        OpenAITTSService(api_key=key),
        face,
        transport.output(),
        context.assistant(),
    ]
    return Pipeline(parts), LLMRunFrame()


async def bot(arguments: RunnerArguments) -> None:
    """One visitor; Pipecat's runner calls it."""
    async with AsyncClient(SERVER) as client:
        avatar = await client.avatar(AVATAR)
    params = TransportParams(
        audio_in_enabled=True,
        audio_out_enabled=True,
        video_out_enabled=True,
        video_out_width=avatar.frame_width,  # another size would have every frame resized
        video_out_height=avatar.frame_height,
        video_out_is_live=False,  # pictures come with their sound, through its queue
    )
    transport = await create_transport(arguments, {"webrtc": lambda: params})
    make = conversation if os.environ.get("OPENAI_API_KEY") else recording
    pipeline, first = make(transport, LipsyncVideoService(SERVER, avatar=AVATAR))
    worker = PipelineWorker(pipeline, params=PipelineParams(audio_out_sample_rate=RATE, enable_metrics=True))

    @transport.event_handler("on_client_connected")
    async def greet(transport: BaseTransport, client: object) -> None:
        await worker.queue_frame(first)

    @transport.event_handler("on_client_disconnected")
    async def leave(transport: BaseTransport, client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=arguments.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


def check() -> None:
    """Exit with one sentence if something is missing: later it would be an error in the log, and no face."""
    try:
        import aiortc  # noqa: F401
        import pipecat.runner.run  # noqa: F401

        if os.environ.get("OPENAI_API_KEY"):
            import openai  # noqa: F401
        else:
            read_audio(SPEECH)
        with Client(SERVER) as client:
            client.avatar(AVATAR)
    except ImportError as error:
        sys.exit(f"{error}. {INSTALL}")
    except LipsyncError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    if not {"-h", "--help"} & set(sys.argv):
        check()
    from pipecat.runner.run import main

    main()
