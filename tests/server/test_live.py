"""Live sessions against a real server. Their clock waits for the server, so that a slow machine changes nothing."""

from __future__ import annotations

import asyncio
import io
import itertools
import socket

import numpy as np
import pytest
from PIL import Image

from lipsync_client import AsyncClient, LiveFrame, LiveSession, to_speech
from lipsync_client.live.speech import Speech
from live_clock import run, take, until_last
from relay import Relay
from speech import real_speech

SECONDS = 60.0  # no call may hang
RATE = 24_000


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """1.1 s as a synthesiser gives it: INT16 at 24 kHz."""
    speech = to_speech(real_speech()[16_000 : 16_000 + 17_700], 16_000, to_rate=RATE)
    return (speech * 32767).astype(np.int16)


async def say(session: LiveSession, sound: np.ndarray, piece: int) -> None:
    data = sound.tobytes()
    for start in range(0, len(data), piece):
        await session.push(data[start : start + piece], RATE)
    await session.end_speech()


async def rendered(url: str, sound: np.ndarray, footage_start: int) -> list[bytes]:
    async with AsyncClient(url, timeout=SECONDS) as client:
        speech = to_speech(sound, RATE)
        return [frame.jpeg async for frame in client.render(speech, chunk=32, footage_start=footage_start)]


async def check_rendered(url: str, sound: np.ndarray, spoken: list[LiveFrame]) -> None:
    """They are the frames of the whole speech, at the footage they are shown on: it moves on where speech was late."""
    for start, group in itertools.groupby(spoken, lambda frame: frame.footage_position - frame.speech_frame):
        part, whole = list(group), await rendered(url, sound, start)
        assert [frame.jpeg for frame in part] == [whole[frame.speech_frame] for frame in part]


def talking(frames: list[LiveFrame]) -> list[LiveFrame]:
    return [frame for frame in frames if frame.speech_frame is not None]


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_live_speech_equals_the_whole_and_idle_frames_the_footage(server, demo, clock, sound) -> None:
    footage = demo[1]

    async def main() -> None:
        async with LiveSession(server.grpc_url, clock=clock, timeout=SECONDS) as session:
            frames = await take(session, 5)
            speaking = asyncio.create_task(say(session, sound, 1_001))
            frames += await until_last(session)
            await speaking
            frames += await take(session, 5)
        spoken = talking(frames)
        assert [frame.jpeg for frame in spoken] == await rendered(server.grpc_url, sound, spoken[0].footage_position)
        assert [frame.footage_position for frame in frames] == list(range(len(frames)))
        for frame in frames:
            if frame.state == "idle":
                assert frame.jpeg == footage.footage_jpeg(frame.footage_position)
        # No jump where they meet: a talking frame differs from the footage's own in the face only.
        for frame in (spoken[0], spoken[-1]):
            here, plain = pixels(frame.jpeg), pixels(footage.footage_jpeg(frame.footage_position))
            rows = np.flatnonzero((here != plain).any((1, 2)))
            assert 0 < len(rows) < len(here) * 0.8

    run(main, clock)


def test_idle_frames_run_no_network(server, client, clock) -> None:
    def executed() -> int:
        return client.get_inference_statistics("lipsync").model_stats[0].inference_count

    async def main() -> None:
        async with LiveSession(server.grpc_url, clock=clock, timeout=SECONDS) as session:
            await take(session, 100)

    before = executed()
    run(main, clock)
    assert executed() == before


def test_after_an_interruption_the_next_frame_is_idle_then_speech_exact(server, sound) -> None:
    """On the event loop's clock."""

    async def main() -> None:
        async with LiveSession(server.grpc_url, timeout=SECONDS) as session:
            speaking = asyncio.create_task(say(session, np.tile(sound, 10), 4_800))
            async for frame in session:
                if frame.speech_frame == 3:
                    break
            await session.interrupt()
            after = await anext(session)
            assert after.state == "idle"
            assert after.index == frame.index + 1
            await asyncio.wait_for(speaking, SECONDS)
            await session.interrupt()  # what was still pushed began a speech of its own
            assert {frame.state for frame in await take(session, 10)} == {"idle"}

            await say(session, sound, 4_800)
            frames = await asyncio.wait_for(until_last(session), SECONDS)
            spoken = talking(frames)
            steps = np.diff([frame.footage_position for frame in frames])
            assert set(np.abs(steps).tolist()) <= {0, 1}
            assert [frame.speech_frame for frame in spoken] == list(range(len(spoken)))
            await check_rendered(server.grpc_url, sound, spoken)

    asyncio.run(asyncio.wait_for(main(), 3 * SECONDS))


def test_a_dead_address_is_passed_over(server, clock, sound) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        dead = f"127.0.0.1:{taken.getsockname()[1]}"

        async def main() -> None:
            async with LiveSession([dead, server.grpc_url], clock=clock, timeout=SECONDS) as session:
                await say(session, sound[:6_000], 3_000)
                frames = talking(await until_last(session))
            assert [frame.speech_frame for frame in frames] == list(range(len(frames))) == list(range(7))

        run(main, clock)


def test_talking_frames_of_silence_depend_on_the_footage_alone(server, sound) -> None:
    """What a session relies on when it shows one again."""
    loud = to_speech(sound, RATE)[:16_000]
    speech = np.concatenate([loud, np.zeros(40 * 640, np.float32), loud])

    async def main() -> None:
        async with AsyncClient(server.grpc_url, timeout=SECONDS) as client:

            async def picture(first: int, count: int) -> bytes:
                """The last of some frames, at the same place of the footage every time."""
                start = 40 - count
                answer = await client.infer(
                    speech, audio_end=False, first_frame=first, frame_count=count, footage_start=start
                )
                return answer.frames[-1]

            heard = Speech(1, 16_000, await client.timeline(), 16_000)
            heard.push(speech)
            heard.end()
            silent = [frame for frame in range(heard.total) if heard.silent(frame)]
            assert len(silent) > 10
            once = await picture(silent[0], 1)
            assert once == await picture(silent[-1] - 2, 3)
            assert once != await picture(silent[-1] + 5, 1)

    asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_a_server_lost_in_mid_speech_costs_no_frame(server, clock, sound) -> None:
    async def main() -> None:
        relay = Relay(server.grpc_url)
        async with LiveSession([await relay.open(), server.grpc_url], clock=clock, timeout=SECONDS, chunk=4) as session:
            speaking = asyncio.create_task(say(session, sound, 4_800))
            frames = await take(session, 12)
            assert len(talking(frames)) > 0
            relay.cut()
            frames += await until_last(session)
            await speaking
            assert session._servers._preferred == 1
        spoken = talking(frames)
        assert [frame.speech_frame for frame in spoken] == list(range(len(spoken)))
        start = spoken[0].footage_position
        assert [frame.footage_position - start for frame in spoken] == list(range(len(spoken)))
        assert [frame.jpeg for frame in spoken] == await rendered(server.grpc_url, sound, start)

    run(main, clock)


def test_starved_speech_resumes_exactly(server, clock, sound) -> None:
    """Pushed with a gap: the frames after it are those of the whole speech, at the footage that was reached by then."""

    async def main() -> None:
        async with LiveSession(server.grpc_url, clock=clock, timeout=SECONDS, first_chunk=2) as session:
            await session.push(sound[:18_000], RATE)
            frames = await take(session, 40)
            assert frames[-1].state == "speaking" and frames[-1].speech_frame is None
            await session.push(sound[18_000:], RATE)
            await session.end_speech()
            frames += await until_last(session)
        spoken = talking(frames)
        heard = np.concatenate([frame.audio for frame in spoken])
        speech = to_speech(sound, RATE)
        np.testing.assert_array_equal(heard[: len(speech)], speech)
        await check_rendered(server.grpc_url, sound, spoken)

    run(main, clock)


def test_sound_and_picture_do_not_drift_in_ten_minutes(server, clock, sound) -> None:
    """One speech that is supplied in pieces with long gaps, over 15,000 frames in simulated time."""
    speech = np.tile(sound, 5)
    pieces = np.split(speech, np.sort(np.random.default_rng(1).choice(len(speech), 5, replace=False)))

    async def supply(session: LiveSession) -> None:
        for piece in pieces:
            await session.push(piece, RATE)
            await clock.sleep_until(clock.time + 600 / len(pieces))
        await session.end_speech()

    async def main() -> None:
        async with LiveSession(server.grpc_url, clock=clock, timeout=SECONDS, sound_rate=RATE) as session:
            supplying = asyncio.create_task(supply(session))
            begin, heard, frame = clock.time, [], None
            while not (frame and frame.last):
                frame = await anext(session)
                assert clock.time - begin == pytest.approx(frame.index / 25, abs=1e-6)
                if frame.audio_span:
                    assert frame.audio_span[0] == 640 * len(heard) == 640 * frame.speech_frame
                    heard.append(frame.audio)
            await supplying
        assert frame.index >= 15_000
        np.testing.assert_array_equal(np.concatenate(heard)[: len(speech)], speech / np.float32(32768))

    run(main, clock)


def test_a_slow_consumer_slows_the_producer_and_loses_nothing(server, clock, sound) -> None:
    async def main() -> None:
        async with LiveSession(server.grpc_url, clock=clock, timeout=SECONDS, buffer_s=1.0) as session:
            speaking = asyncio.create_task(say(session, np.tile(sound, 2), 4_800))
            frames = []
            while not (frames and frames[-1].last):
                clock.time += 0.5  # it takes that long with every frame
                frames += await take(session, 1)
                assert session.waiting_s <= 2
            await speaking
        speech = to_speech(np.tile(sound, 2), RATE)
        heard = np.concatenate([frame.audio for frame in talking(frames)])
        np.testing.assert_array_equal(heard[: len(speech)], speech)
        times = [frame.time_s for frame in frames]
        assert np.diff(times) == pytest.approx([0.04] * (len(times) - 1))

    run(main, clock)
