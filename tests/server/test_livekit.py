"""The LiveKit generator with a real server: alone, and in LiveKit's own `AvatarRunner`. Only the room is missing."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import socket
from collections.abc import AsyncIterator
from unittest.mock import AsyncMock, Mock

import numpy as np
import pytest

from checkout import ROOT
from lipsync_server import home

pytest.importorskip("livekit.agents", reason="LiveKit Agents is not installed")
from livekit import rtc
from livekit.agents import Agent, AgentSession
from livekit.agents.voice.avatar import AudioSegmentEnd

from lipsync_client import InvalidRequest, ServerUnavailable, read_audio, to_speech
from lipsync_client.agents.face import rgb
from lipsync_client.agents.livekit import LipsyncAvatar, LipsyncVideoGenerator
from speech import real_speech

SECONDS = 60.0  # no test may hang
RATE = 24_000
PIECE = RATE // 50


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    speech = to_speech(real_speech()[16_000:], 16_000, to_rate=RATE)[:RATE]
    return (speech * 32767).astype(np.int16)


@pytest.fixture(scope="module")
def footage(demo) -> set[bytes]:
    assets = demo[1]
    return {rgb(assets.footage_jpeg(index))[0] for index in range(assets.facts.frames)}


def pieces(sound: np.ndarray) -> list[rtc.AudioFrame]:
    parts = [sound[start : start + PIECE] for start in range(0, len(sound), PIECE)]
    return [rtc.AudioFrame(part.tobytes(), RATE, 1, len(part)) for part in parts]


def heard(frames: list) -> np.ndarray:
    parts = [np.frombuffer(frame.data, np.int16) for frame in frames if isinstance(frame, rtc.AudioFrame)]
    return np.concatenate(parts or [np.zeros(0, np.int16)])


async def until(stream, kind: type, count: int = 1) -> list:
    frames = []
    while sum(isinstance(frame, kind) for frame in frames) < count:
        frames.append(await asyncio.wait_for(anext(stream), SECONDS))
    return frames


def test_speech_comes_out_with_its_pictures_and_its_end(server, sound, footage) -> None:
    async def main() -> None:
        generator = LipsyncVideoGenerator(server.grpc_url)
        options = await generator.open()
        stream = aiter(generator)
        frames = await until(stream, rtc.VideoFrame, 3)
        for piece in pieces(sound):
            await generator.push_audio(piece)
        await generator.push_audio(AudioSegmentEnd())
        frames += await until(stream, AudioSegmentEnd)
        np.testing.assert_array_equal(heard(frames), sound)
        after = await until(stream, rtc.VideoFrame, 3)
        assert not heard(after).size
        pictures = [frame for frame in frames if isinstance(frame, rtc.VideoFrame)]
        assert {(frame.width, frame.height) for frame in pictures} == {(options.video_width, options.video_height)}
        pairs = itertools.pairwise(frames)
        talking = [bytes(one.data) for one, next_one in pairs if isinstance(next_one, rtc.AudioFrame)]
        assert len(talking) == 25 and not footage & set(talking)
        assert {bytes(frame.data) for frame in after} <= footage
        assert (options.video_fps, options.audio_sample_rate, options.audio_channels) == (25, RATE, 1)
        await generator.aclose()
        assert [frame async for frame in stream] == []

    asyncio.run(asyncio.wait_for(main(), 2 * SECONDS))


def test_clearing_the_buffer_leaves_nothing_of_the_speech(server, sound, footage) -> None:
    async def main() -> None:
        generator = LipsyncVideoGenerator(server.grpc_url)
        await generator.open()
        stream = aiter(generator)
        for piece in pieces(np.tile(sound, 3)):
            await generator.push_audio(piece)
        await generator.push_audio(AudioSegmentEnd())
        await until(stream, rtc.AudioFrame, 5)
        await generator.clear_buffer()
        after = await until(stream, rtc.VideoFrame, 20)
        assert {type(frame) for frame in after} == {rtc.VideoFrame}
        assert {bytes(frame.data) for frame in after} <= footage
        await generator.push_audio(pieces(sound)[10])
        await generator.push_audio(AudioSegmentEnd())
        assert len(heard(await until(stream, AudioSegmentEnd))) == RATE // 25
        await generator.aclose()

    asyncio.run(asyncio.wait_for(main(), 2 * SECONDS))


def test_speech_at_another_rate_is_refused(server) -> None:
    async def main() -> None:
        generator = LipsyncVideoGenerator(server.grpc_url, sample_rate=16_000)
        await generator.open()
        with pytest.raises(InvalidRequest, match=r"24000.*16000.*sample_rate=24000"):
            await generator.push_audio(rtc.AudioFrame(bytes(960), RATE, 1, 480))
        await generator.aclose()

    asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_without_a_server_it_does_not_open() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
            generator = LipsyncVideoGenerator(f"127.0.0.1:{taken.getsockname()[1]}")
            with pytest.raises(ServerUnavailable):
                await generator.open()
            await generator.aclose()
            avatar = LipsyncAvatar(f"127.0.0.1:{taken.getsockname()[1]}")
            others = asyncio.all_tasks()
            with pytest.raises(ServerUnavailable):
                await avatar.start(AgentSession(), Room())
            assert asyncio.all_tasks() == others
            await avatar.aclose()
            await avatar.aclose()

    asyncio.run(asyncio.wait_for(main(), SECONDS))


class Room(rtc.EventEmitter):
    """As much of a room as an agent session and `AvatarRunner` need."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "room"
        self.tracks: dict[int, rtc.TrackPublishOptions] = {}  # by kind
        self.connection_state = rtc.ConnectionState.CONN_CONNECTED
        self.remote_participants: dict[str, rtc.RemoteParticipant] = {}
        self.local_participant = AsyncMock(
            identity="agent", track_publications={}, publish_track=self._publish, register_rpc_method=Mock()
        )
        for action, kind in itertools.product(("register", "unregister"), ("text", "byte")):
            setattr(self, f"{action}_{kind}_stream_handler", Mock())

    def isconnected(self) -> bool:
        return True

    async def _publish(self, track, options) -> AsyncMock:
        self.tracks[track.kind] = options
        publication = self.local_participant.track_publications[str(track.kind)] = AsyncMock(kind=track.kind)
        self.emit("local_track_published", publication, track)
        return publication


@pytest.fixture
def pushed(monkeypatch) -> list[rtc.VideoFrame | rtc.AudioFrame]:
    """What LiveKit's synchroniser was given."""
    frames = []
    push = rtc.AVSynchronizer.push

    async def recorded(self, frame, timestamp=None) -> None:
        frames.append(frame)
        await push(self, frame, timestamp)

    monkeypatch.setattr(rtc.AVSynchronizer, "push", recorded)
    return frames


@pytest.fixture
def job(monkeypatch) -> Mock:
    """The job that runs the agent, as far as an avatar needs it."""
    job = Mock(connect=AsyncMock(), room=Room(), api=AsyncMock())
    monkeypatch.setattr("livekit.agents.voice.avatar._types.get_job_context", lambda required: job)
    return job


def test_the_example_agent_speaks_in_its_room(server, pushed, job, monkeypatch) -> None:
    monkeypatch.setenv("LIPSYNC_SERVER", server.grpc_url)
    monkeypatch.setenv("SPEECH", str(home.SAMPLE))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    spec = importlib.util.spec_from_file_location("agent", ROOT / "examples" / "livekit" / "agent.py")
    agent = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(agent)

    async def main() -> None:
        await agent.entrypoint(job)
        while len(heard(pushed)) < RATE // 2:
            await asyncio.sleep(0.01)
        said = (read_audio(home.SAMPLE, rate=RATE)[: RATE // 2] * 32767).astype(np.int16)
        np.testing.assert_allclose(heard(pushed)[: RATE // 2], said, atol=1)
        await job.add_shutdown_callback.call_args.args[0]()  # the avatar's own
        removed = job.api.room.remove_participant.call_args.args[0]
        assert removed.identity not in ("", job.room.local_participant.identity)  # the agent stays

    asyncio.run(asyncio.wait_for(main(), 2 * SECONDS))


def test_an_agent_session_speaks_through_the_avatar(server, sound, pushed) -> None:
    async def main() -> None:
        room, session = Room(), AgentSession()
        avatar = LipsyncAvatar(server.grpc_url)
        metrics = []
        avatar.on("metrics_collected", metrics.append)
        await avatar.start(session, room)
        await session.start(Agent(instructions="Only says what it is told."))

        async def voice(frames: list[rtc.AudioFrame]) -> AsyncIterator[rtc.AudioFrame]:
            for frame in frames:
                yield frame

        said = session.say("one", audio=voice(pieces(sound)))
        await asyncio.wait_for(said.wait_for_playout(), SECONDS)
        assert not said.interrupted
        np.testing.assert_array_equal(heard(pushed), sound)
        assert room.tracks.keys() == {rtc.TrackKind.KIND_AUDIO, rtc.TrackKind.KIND_VIDEO}
        picture = room.tracks[rtc.TrackKind.KIND_VIDEO]
        assert (picture.simulcast, picture.video_encoding.max_framerate) == (False, 25)
        assert (picture.source, picture.video_codec) == (rtc.TrackSource.SOURCE_CAMERA, rtc.VideoCodec.H264)
        await avatar.wait_for_join(timeout=SECONDS)
        assert [(one.metadata.model_provider, one.avatar_joined_time > 0) for one in metrics[:1]] == [("lipsync", True)]

        del pushed[:]
        said = session.say("two", audio=voice(pieces(np.tile(sound, 3))))
        while len(heard(pushed)) < 5 * RATE // 25:
            await asyncio.sleep(0.01)
        await asyncio.wait_for(session.interrupt(), SECONDS)
        await asyncio.wait_for(said.wait_for_playout(), SECONDS)
        assert said.interrupted
        assert avatar._runner._audio_source.queued_duration == 0  # LiveKit's own queue
        del pushed[:]
        while len(pushed) < 10:
            await asyncio.sleep(0.01)
        assert not heard(pushed).size
        await session.aclose()
        await avatar.aclose()

    asyncio.run(asyncio.wait_for(main(), 2 * SECONDS))
