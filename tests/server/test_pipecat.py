"""The Pipecat service in real pipelines, with a real server. The speech synthesiser is a recording."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.util
import socket
import threading
import wave
from collections.abc import Awaitable, Callable
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest

from checkout import ROOT
from lipsync_server import home

pytest.importorskip("pipecat", reason="Pipecat is not installed")
from pipecat.frames.frames import (
    BotStoppedSpeakingFrame,
    DataFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InterruptionFrame,
    MetricsFrame,
    OutputAudioRawFrame,
    OutputImageRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import TTFBMetricsData
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.utils.text.base_text_aggregator import TextType
from pipecat.workers.runner import WorkerRunner

from lipsync_client import AsyncClient, LiveSession, read_audio, to_speech
from lipsync_client.agents.face import rgb
from lipsync_client.agents.pipecat import CUSHION_FRAMES, LipsyncVideoService
from relay import Relay
from speech import real_speech

SECONDS = 60.0  # no test may hang
RATE = 24_000
SIZE = RATE // 25
CUSHION = bytes(2 * CUSHION_FRAMES * SIZE)


@pytest.fixture(scope="module")
def sound() -> bytes:
    """1 s and 25 frames exactly, as a synthesiser gives it."""
    speech = to_speech(real_speech()[16_000:], 16_000, to_rate=RATE)[:RATE]
    return (speech * 32767).astype(np.int16).tobytes()


@pytest.fixture(scope="module")
def footage(demo) -> set[bytes]:
    """What the avatar's silent pictures look like."""
    assets = demo[1]
    return {seen(rgb(assets.footage_jpeg(index))[0]) for index in range(assets.facts.frames)}


def seen(pixels: bytes) -> bytes:
    return hashlib.sha256(pixels).digest()


class Voice(FrameProcessor):
    """Speaks one recording, whatever it is told to say."""

    def __init__(self, sound: bytes) -> None:
        super().__init__()
        self.sound = sound
        self.errors: list[ErrorFrame] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, ErrorFrame):
            self.errors.append(frame)
        if not isinstance(frame, TTSSpeakFrame):
            await self.push_frame(frame, direction)
            return
        pieces = [self.sound[start : start + 1920] for start in range(0, len(self.sound), 1920)]
        for part in (
            TTSStartedFrame(context_id=frame.text),
            *(TTSAudioRawFrame(piece, RATE, 1, context_id=frame.text) for piece in pieces),
            TTSTextFrame(frame.text, TextType.SENTENCE),
            TTSStoppedFrame(context_id=frame.text),
        ):
            part.interruptible = frame.interruptible  # as Pipecat's own speech services do
            await self.push_frame(part)


class Sink(FrameProcessor):
    """Keeps every frame, and tells who waits for one."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self._news = asyncio.Condition()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        async with self._news:
            self.frames.append(frame)
            self._news.notify_all()
        await self.push_frame(frame, direction)

    async def until(self, done: Callable[[list[Frame]], bool]) -> None:
        async with self._news:
            await asyncio.wait_for(self._news.wait_for(lambda: done(self.frames)), SECONDS)


def of(frames: list[Frame], kind: type) -> list:
    return [frame for frame in frames if isinstance(frame, kind)]


def spoken(frames: list[Frame]) -> list[TTSAudioRawFrame]:
    """Without the silence that begins a speech, or goes on with it after the server was late."""
    return [frame for frame in of(frames, TTSAudioRawFrame) if frame.audio != CUSHION]


def heard(frames: list[Frame]) -> bytes:
    return b"".join(frame.audio for frame in spoken(frames))


def has(kind: type, count: int = 1) -> Callable[[list[Frame]], bool]:
    return lambda frames: len(of(frames, kind)) >= count


async def run(
    script: Callable[[PipelineWorker], Awaitable[None]],
    *processors: FrameProcessor,
    metrics: bool = False,
    first: Frame | None = None,
) -> None:
    """A pipeline from its start to its end, and what is done meanwhile."""
    worker = PipelineWorker(
        Pipeline(list(processors)),
        params=PipelineParams(enable_metrics=metrics),
        cancel_on_idle_timeout=False,
        enable_rtvi=False,
    )
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def _(worker, frame) -> None:
        started.set()

    async def play() -> None:
        await asyncio.wait_for(started.wait(), SECONDS)
        try:
            if first:
                await worker.queue_frame(first)
            await script(worker)
        except BaseException:
            await worker.cancel()
            raise

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.wait_for(asyncio.gather(runner.run(), play()), 2 * SECONDS)


def test_speech_comes_out_with_its_pictures_and_everything_else_in_its_place(server, sound, footage) -> None:
    async def main() -> None:
        sink, voice = Sink(), Voice(sound)

        async def script(worker: PipelineWorker) -> None:
            await sink.until(has(OutputImageRawFrame, 3))
            await worker.queue_frame(TTSSpeakFrame("one"))
            await sink.until(has(TTSStoppedFrame))
            count = len(of(sink.frames, OutputImageRawFrame))
            await sink.until(has(OutputImageRawFrame, count + 5))
            await worker.queue_frame(EndFrame())

        await run(script, voice, LipsyncVideoService(server.grpc_url), sink, metrics=True)
        frames = sink.frames
        assert heard(frames) == sound
        assert of(frames, TTSAudioRawFrame)[0].audio == CUSHION
        assert {frame.context_id for frame in of(frames, TTSAudioRawFrame)} == {"one"}
        assert {frame.sample_rate for frame in of(frames, TTSAudioRawFrame)} == {RATE}
        images = of(frames, OutputImageRawFrame)
        assert all(image.sync_with_audio and image.format == "RGB" for image in images)
        assert not voice.errors

        # Each piece of sound follows the picture that it belongs to; a picture without sound is the footage's own.
        order = [frame for frame in frames if isinstance(frame, OutputImageRawFrame) or frame in spoken([frame])]
        talking = [
            seen(order[place - 1].image) for place, frame in enumerate(order) if frame in of([frame], TTSAudioRawFrame)
        ]
        silent = [
            seen(frame.image)
            for frame, after in zip(order, [*order[1:], None], strict=True)
            if isinstance(frame, OutputImageRawFrame) and not isinstance(after, TTSAudioRawFrame)
        ]
        assert len(talking) == 25 and not footage & set(talking)
        assert len(silent) >= 8 and set(silent) <= footage

        kinds = [type(frame) for frame in frames]
        assert kinds.index(StartFrame) < kinds.index(OutputImageRawFrame)
        last = max(place for place, kind in enumerate(kinds) if kind is TTSAudioRawFrame)
        assert kinds.index(TTSStartedFrame) < kinds.index(TTSAudioRawFrame)
        assert last < kinds.index(TTSTextFrame) < kinds.index(TTSStoppedFrame) < kinds.index(EndFrame)
        times = [data for frame in of(frames, MetricsFrame) for data in frame.data if isinstance(data, TTFBMetricsData)]
        assert any("LipsyncVideoService" in data.processor and data.value > 0 for data in times)

    asyncio.run(main())


class Note(DataFrame):
    """A frame that no interruption may drop."""

    def __init__(self) -> None:
        super().__init__()
        self.interruptible = False


def test_an_interruption_leaves_nothing_of_the_speech(server, sound, footage, monkeypatch) -> None:
    free, held = threading.Event(), threading.Event()
    free.set()

    def held_up(jpeg: bytes) -> tuple[bytes, tuple[int, int]]:
        if not free.is_set():
            held.set()
        assert free.wait(SECONDS)
        return rgb(jpeg)

    monkeypatch.setattr("lipsync_client.agents.pipecat.rgb", held_up)

    async def main() -> None:
        sink = Sink()

        async def script(worker: PipelineWorker) -> None:
            await worker.queue_frames([TTSSpeakFrame("one"), Note(), TTSSpeakFrame("two")])
            await sink.until(has(TTSAudioRawFrame, 6))
            free.clear()  # the picture that is decoded while the interruption comes is one of the speech
            assert await asyncio.to_thread(held.wait, SECONDS)
            await worker.queue_frame(InterruptionFrame())
            await sink.until(has(InterruptionFrame))
            free.set()
            place = len(sink.frames)
            await sink.until(lambda frames: has(OutputImageRawFrame, 10)(frames[place:]))
            await worker.queue_frame(TTSSpeakFrame("three"))
            await sink.until(has(TTSStoppedFrame))
            await worker.queue_frame(EndFrame())

        await run(script, Voice(sound * 2), LipsyncVideoService(server.grpc_url), sink)
        place = next(place for place, frame in enumerate(sink.frames) if isinstance(frame, InterruptionFrame))
        before, after = sink.frames[:place], sink.frames[place:]
        assert (sound * 2).startswith(heard(before))
        assert len(of(after, Note)) == 1
        assert heard(after) == sound * 2
        assert {frame.context_id for frame in of(after, TTSAudioRawFrame)} == {"three"}
        assert [frame.context_id for frame in of(after, TTSStoppedFrame)] == ["three"]
        begin = next(place for place, frame in enumerate(after) if isinstance(frame, TTSAudioRawFrame))
        idle = of(after[:begin], OutputImageRawFrame)
        assert len(idle) >= 10 and {seen(image.image) for image in idle} <= footage

    asyncio.run(main())


@pytest.mark.parametrize("first_is_interruptible", [False, True])
def test_speech_that_may_not_be_interrupted_is_heard_to_its_end(server, sound, first_is_interruptible) -> None:
    async def main() -> None:
        sink = Sink()
        one, two = TTSSpeakFrame("one"), TTSSpeakFrame("two")
        one.interruptible, two.interruptible = first_is_interruptible, False

        async def script(worker: PipelineWorker) -> None:
            await worker.queue_frames([one, two])
            await sink.until(has(TTSAudioRawFrame, 6))
            await worker.queue_frame(InterruptionFrame())
            await worker.queue_frame(EndFrame())

        await run(script, Voice(sound), LipsyncVideoService(server.grpc_url), sink)
        by_context = dict.fromkeys(("one", "two"), b"")
        for frame in spoken(sink.frames):
            by_context[frame.context_id] += frame.audio
        assert by_context["two"] == sound
        assert by_context["one"] == sound or (first_is_interruptible and len(by_context["one"]) < len(sound))
        stopped = [frame.context_id for frame in of(sink.frames, TTSStoppedFrame)]
        assert stopped == ["one", "two"][first_is_interruptible:]
        assert all(not frame.interruptible for frame in spoken(sink.frames) if frame.context_id == "two")

    asyncio.run(main())


def test_uninterruptible_speech_keeps_its_order_while_more_comes(server, monkeypatch) -> None:
    session = functools.partial(LiveSession, buffer_s=1.5)  # the rest of the speech waits in the pipeline
    monkeypatch.setattr("lipsync_client.agents.face.LiveSession", session)
    noise = np.random.default_rng(0).integers(1, 9000, 4 * RATE, np.int16).tobytes()

    async def main() -> None:
        sink = Sink()
        one, two = TTSSpeakFrame("one"), TTSSpeakFrame("two")
        two.interruptible = False

        async def script(worker: PipelineWorker) -> None:
            await worker.queue_frames([one, two])
            await sink.until(has(TTSAudioRawFrame, 6))
            await worker.queue_frame(InterruptionFrame())
            await sink.until(has(InterruptionFrame))
            await worker.queue_frame(EndFrame())

        class Voices(Voice):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                self.sound = noise[: RATE // 2 * 2] if frame is one else noise
                await super().process_frame(frame, direction)

        await run(script, Voices(noise), LipsyncVideoService(server.grpc_url), sink)
        second = [frame for frame in spoken(sink.frames) if frame.context_id == "two"]
        assert b"".join(frame.audio for frame in second) == noise
        assert sink.frames.index(second[-1]) < sink.frames.index(of(sink.frames, TTSStoppedFrame)[-1])

    asyncio.run(main())


def test_services_share_a_connection_and_nothing_else(server, sound) -> None:
    other = sound[::-1]

    async def main() -> None:
        sinks = Sink(), Sink()

        async def script(worker: PipelineWorker) -> None:
            await worker.queue_frames([TTSSpeakFrame("one"), EndFrame()])

        async with AsyncClient(server.grpc_url, timeout=SECONDS) as client:
            await asyncio.gather(
                *(
                    run(script, Voice(data), LipsyncVideoService(client), sink)
                    for data, sink in zip((sound, other), sinks, strict=True)
                )
            )
        assert [heard(sink.frames) for sink in sinks] == [sound, other]

    asyncio.run(main())


def test_the_end_waits_for_the_speech(server, sound) -> None:
    async def main() -> None:
        sink = Sink()

        async def script(worker: PipelineWorker) -> None:
            await worker.queue_frames([TTSSpeakFrame("one"), TTSSpeakFrame("two"), EndFrame()])

        await run(script, Voice(sound), LipsyncVideoService(server.grpc_url), sink)
        assert heard(sink.frames) == sound * 2
        assert isinstance(sink.frames[-1], EndFrame)
        assert [frame.context_id for frame in of(sink.frames, TTSStoppedFrame)] == ["one", "two"]

    asyncio.run(main())


def test_cancelling_does_not_wait(server, sound) -> None:
    async def main() -> None:
        sink = Sink()

        async def script(worker: PipelineWorker) -> None:
            await worker.queue_frame(TTSSpeakFrame("one"))
            await sink.until(has(TTSAudioRawFrame, 3))
            await worker.cancel()

        others = asyncio.all_tasks()
        await run(script, Voice(sound * 20), LipsyncVideoService(server.grpc_url), sink)
        assert len(heard(sink.frames)) < len(sound) * 15
        assert asyncio.all_tasks() == others

    asyncio.run(main())


def test_without_a_server_the_speech_passes_with_one_error(sound) -> None:
    async def main() -> None:
        sink, voice = Sink(), Voice(sound)

        async def script(worker: PipelineWorker) -> None:
            await worker.queue_frames([TTSSpeakFrame("one"), TTSSpeakFrame("two"), EndFrame()])

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
            url = f"127.0.0.1:{taken.getsockname()[1]}"
            await run(script, voice, LipsyncVideoService(url), sink)
        assert heard(sink.frames) == sound * 2
        assert not of(sink.frames, OutputImageRawFrame)
        assert [frame.context_id for frame in of(sink.frames, TTSStoppedFrame)] == ["one", "two"]
        assert len(voice.errors) == 1 and "without the avatar" in voice.errors[0].error

    asyncio.run(main())


def test_a_server_lost_and_back_costs_only_the_mouth(server, sound, footage, monkeypatch) -> None:
    monkeypatch.setattr("lipsync_client.agents.face.RETRY_S", 0.2)
    monkeypatch.setattr("lipsync_client.agents.face.PATIENCE_S", 0.5)

    async def main() -> None:
        sink, voice = Sink(), Voice(sound * 3)  # more than is rendered ahead
        relay = Relay(server.grpc_url)
        url = await relay.open()
        service = LipsyncVideoService(url)
        talked = 0

        async def script(worker: PipelineWorker) -> None:
            nonlocal talked
            await worker.queue_frame(TTSSpeakFrame("one"))
            await sink.until(has(TTSAudioRawFrame, 10))
            relay.cut()
            await sink.until(has(TTSStoppedFrame))
            talked = len(sink.frames)
            await relay.open(int(url.rpartition(":")[2]))
            while service._face._away:
                await asyncio.sleep(0.05)
            voice.sound = sound
            await worker.queue_frames([TTSSpeakFrame("two"), EndFrame()])

        await run(script, voice, service, sink)
        assert heard(sink.frames[:talked]) == sound * 3
        assert heard(sink.frames[talked:]) == sound
        images = of(sink.frames[talked:], OutputImageRawFrame)
        assert sum(seen(image.image) not in footage for image in images) == 25
        assert len(voice.errors) == 1

    asyncio.run(main())


class Loudspeaker(BaseOutputTransport):
    """An output transport that takes as long as the sound lasts, and keeps what it is given."""

    def __init__(self, params: TransportParams) -> None:
        super().__init__(params)
        self.written: list[tuple[str, bytes]] = []

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        self.written.append(("sound", frame.audio))
        await asyncio.sleep(len(frame.audio) / 2 / frame.sample_rate)
        return True

    async def write_video_frame(self, frame: OutputImageRawFrame) -> bool:
        self.written.append(("picture", seen(frame.image)))
        return True


def test_a_real_output_transport_plays_it_and_falls_silent(server, demo, sound, footage) -> None:
    assets = demo[1]

    async def main() -> None:
        size = rgb(assets.footage_jpeg(0))[1]
        loudspeaker = Loudspeaker(
            TransportParams(
                audio_out_enabled=True, video_out_enabled=True, video_out_width=size[0], video_out_height=size[1]
            )
        )
        sink = Sink()
        places = []

        async def script(worker: PipelineWorker) -> None:
            await worker.queue_frame(TTSSpeakFrame("one"))
            await sink.until(has(BotStoppedSpeakingFrame))
            places.append(len(loudspeaker.written))
            await worker.queue_frame(TTSSpeakFrame("two"))
            await sink.until(has(TTSAudioRawFrame, 35))
            await worker.queue_frame(InterruptionFrame())
            await sink.until(has(InterruptionFrame))
            places.append(len(loudspeaker.written))
            await asyncio.sleep(1)
            await worker.queue_frame(EndFrame())

        await run(script, Voice(sound), LipsyncVideoService(server.grpc_url), loudspeaker, sink)
        first, rest = loudspeaker.written[: places[0]], loudspeaker.written[places[1] :]
        chunks = [data for kind, data in first if kind == "sound"]
        assert chunks[:2] == [bytes(2 * SIZE)] * CUSHION_FRAMES
        assert b"".join(chunk for chunk in chunks if chunk.strip(b"\0")) == sound
        talking = {data for kind, data in first if kind == "picture"} - footage
        assert 15 <= len(talking) <= 25  # it draws by a clock of its own, which may miss some on a slow machine
        # What was on its way when the interruption came has been written by now, no more.
        late = [data for kind, data in rest if kind == "sound" and data.strip(b"\0")]
        assert len(late) <= 1
        assert {data for kind, data in rest[5:] if kind == "picture"} <= footage

    asyncio.run(main())


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "pipecat" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_example_writes_a_video_of_the_whole_speech(server, sound, tmp_path) -> None:
    with wave.open(str(tmp_path / "said.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(sound)
    path = tmp_path / "talk.mp4"
    script = example("to_file")
    asyncio.run(asyncio.wait_for(script.run(str(tmp_path / "said.wav"), path, server.grpc_url, "demo"), 2 * SECONDS))
    with av.open(path) as file:
        seconds = {stream.type: float(stream.duration * stream.time_base) for stream in file.streams}
    assert seconds["video"] == pytest.approx(seconds["audio"], abs=0.1)
    said, recorded = read_audio(tmp_path / "said.wav"), read_audio(path)
    assert np.square(recorded).sum() == pytest.approx(np.square(said).sum(), rel=0.1)


def test_the_example_bot_speaks_and_is_interrupted_by_its_user(server, monkeypatch) -> None:
    """Without a key; the browser's side of the transport is a stand-in."""
    bot = example("bot")
    monkeypatch.setattr(bot, "SPEECH", str(home.SAMPLE))

    async def main() -> None:
        sink = Sink()
        transport = SimpleNamespace(input=Sink, output=lambda: sink)

        async def script(worker: PipelineWorker) -> None:
            await sink.until(has(TTSAudioRawFrame, 10))
            await worker.queue_frame(VADUserStartedSpeakingFrame())
            await sink.until(has(InterruptionFrame))
            spoken_before = len(of(sink.frames, TTSAudioRawFrame))
            await worker.queue_frame(VADUserStoppedSpeakingFrame())
            await sink.until(has(TTSAudioRawFrame, spoken_before + 10))
            await worker.cancel()

        pipeline, first = bot.recording(transport, LipsyncVideoService(server.grpc_url))
        await run(script, pipeline, first=first)
        assert len(of(sink.frames, TTSStartedFrame)) == 2
        assert not of(sink.frames, TTSStoppedFrame)

    asyncio.run(main())
