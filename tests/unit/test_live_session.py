"""A live session on a clock that the tests control, against a fake server."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace

import grpc
import numpy as np
import pytest
from client_fake import TIMELINE, WAIT_S, picture, running
from live_fake import (
    FRAME,
    JPEG_HEADER,
    LiveFake,
    check_speech,
    check_steady,
    idle_picture,
    patch_box,
    positions_asked,
    talking_picture,
)

from lipsync_client import (
    AsyncClient,
    InvalidRequest,
    LipsyncError,
    LiveFrame,
    LiveSession,
    ServerError,
    ServerUnavailable,
    retry,
    to_speech,
)
from live_clock import TestClock, run, take, until_last

RATE = TIMELINE.sample_rate
SPEECH = np.random.default_rng(0).uniform(-1, 1, 1990).astype(np.float32)  # 50 frames, the last one not full
OPTIONS = {"chunk": 8, "buffer_s": 100.0}


@pytest.fixture
def fake() -> Iterator[LiveFake]:
    with running(LiveFake()) as server:
        yield server


async def say(session: LiveSession, speech: np.ndarray, piece: int = 10**9) -> None:
    for start in range(0, len(speech), piece):
        await session.push(speech[start : start + piece], RATE)
    await session.end_speech()


@pytest.mark.parametrize("piece", [1, 7, 40, 333, 5000])
def test_pushed_in_any_pieces_equals_whole(fake: LiveFake, clock: TestClock, piece: int) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            frames = await take(session, 3)
            await say(session, SPEECH, piece)
            frames += await until_last(session)
            frames += await take(session, 3)
        check_speech(frames, SPEECH)
        check_steady(frames)
        assert [frame.state for frame in frames[:3] + frames[-3:]] == ["idle"] * 6

    run(main, clock)


def test_with_patches_talking_frames_are_footage_and_a_patch(fake: LiveFake, clock: TestClock) -> None:
    speech = np.concatenate([SPEECH, np.zeros(RATE, np.float32), SPEECH])

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, pictures="patches", **OPTIONS) as session:
            for _ in range(2):  # the second time, its silence is not rendered again
                await say(session, speech)
                frames = await until_last(session)
                check_patches([frame for frame in frames if frame.speech_frame is not None], speech)
                check_steady([replace(frame, patch=None) for frame in frames if frame.speech_frame is None][:1])
                assert all(frame.patch is None for frame in frames if frame.speech_frame is None)
        assert len(positions_asked(fake.seen)) < 2 * TIMELINE.frame_count(len(speech))

    run(main, clock)


def check_patches(talking: list[LiveFrame], speech: np.ndarray) -> None:
    assert [frame.speech_frame for frame in talking] == list(range(TIMELINE.frame_count(len(speech))))
    for frame in talking:
        at = frame.footage_position
        assert frame.jpeg == idle_picture(at % 10)
        assert frame.patch is not None
        assert frame.patch.jpeg == JPEG_HEADER + talking_picture(picture(speech, frame.speech_frame), at)
        assert frame.patch.box == patch_box(at)


@pytest.mark.parametrize("speeches", [1, 2])
def test_a_patch_never_lands_on_another_avatars_footage(fake: LiveFake, clock: TestClock, speeches: int) -> None:
    """The avatar is replaced within a speech, or while patches of the old one wait and the next speech notices it."""
    speech = np.tile(SPEECH, 3 // speeches)

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, pictures="patches", **OPTIONS) as session:
            await say(session, speech)
            frames = await take(session, 12)
            fake.facts["avatar_key"] = "78"
            for _ in range(speeches - 1):
                await say(session, speech)
            for _ in range(speeches):
                frames += await until_last(session)
            assert session.avatar.key == 78
        pasted = [(frame.jpeg, frame.patch.key, frame.footage_position) for frame in frames if frame.patch]
        assert [jpeg for jpeg, _, _ in pasted] == [idle_picture(at % 10, key) for _, key, at in pasted]
        assert {key for _, key, _ in pasted} == {77, 78}
        heard = [frame.speech_frame for frame in frames if frame.speech_frame is not None]
        assert heard == speeches * list(range(TIMELINE.frame_count(len(speech))))

    run(main, clock)


def test_an_avatar_without_patches_gives_whole_frames(fake: LiveFake, clock: TestClock) -> None:
    fake.patches = False

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, pictures="patches", **OPTIONS) as session:
            await say(session, SPEECH)
            frames = await until_last(session)
        check_speech(frames, SPEECH)
        assert not any(frame.patch for frame in frames)

    run(main, clock)


def test_pieces_at_the_pace_of_speaking_equal_whole(fake: LiveFake, clock: TestClock) -> None:
    clock.delay = lambda number: 0.05

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            frames = []
            for start in range(0, len(SPEECH), FRAME):
                await session.push(SPEECH[start : start + FRAME], RATE)
                frames += await take(session, 1)
            await session.end_speech()
            frames += await until_last(session)
        check_speech(frames, SPEECH)
        check_steady(frames)
        first = next(frame for frame in frames if frame.speech_frame == 0)
        held = [frame for frame in frames[first.index :] if frame.speech_frame is None]
        assert not held
        lookahead = TIMELINE.samples_after / RATE
        # look-ahead, the other frames of the first request, the expected time of a request, and one frame of rounding
        assert first.time_s <= lookahead + 3 / 25 + 0.2 + 2 / 25

    run(main, clock)


def test_requests_begin_small_grow_and_stay_bounded(fake: LiveFake, clock: TestClock) -> None:
    long = np.tile(SPEECH, 5)

    async def main() -> None:
        async with LiveSession(
            fake.url, clock=clock, first_chunk=2, chunk=8, in_flight=2, ahead_s=0.8, buffer_s=100
        ) as session:
            await say(session, long)
            frames = []
            for _ in range(300):
                frames += await take(session, 1)
                requested = max((seen.first + seen.count for seen in fake.seen), default=0)
                shown = sum(frame.speech_frame is not None for frame in frames)
                assert requested - shown <= 20
                if frames[-1].last:
                    break
        check_speech(frames, long)
        sizes = [seen.count for seen in sorted(fake.seen, key=lambda seen: seen.first)]
        assert sizes[:2] == [2, 2]
        assert 6 <= max(sizes) <= 8
        assert fake.most_at_once <= 2

    run(main, clock)


def test_idle_frames_are_the_footage_and_are_fetched_once(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            frames = await take(session, 200)
        check_steady(frames)
        assert [frame.jpeg for frame in frames] == [idle_picture(index % 10) for index in range(200)]
        assert sorted(fake.idle) == list(range(10))
        assert not fake.seen

    run(main, clock)


def test_memory_for_idle_frames_is_bounded(fake: LiveFake, clock: TestClock) -> None:
    fake.facts["footage_frames"] = "1000"

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, idle_bytes=100, **OPTIONS) as session:
            frames = await take(session, 1200)
            assert len(session._footage._plain) <= 70
        assert [frame.jpeg for frame in frames] == [idle_picture(index % 1000) for index in range(1200)]
        assert len(fake.idle) <= 1200 + 70  # each once a round

    run(main, clock)


def test_long_footage_turns_without_standing_still(fake: LiveFake, clock: TestClock) -> None:
    fake.facts |= {"footage_frames": "200", "loop": "pingpong"}

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, idle_bytes=100, **OPTIONS) as session:
            frames = await take(session, 350)
        shown = [min(index, 398 - index) for index in range(350)]
        assert [frame.jpeg for frame in frames] == [idle_picture(index) for index in shown]
        assert len(fake.idle) < 350  # some that were shown before the turn are still here after it

    run(main, clock)


def test_a_slow_consumer_slows_push_and_memory_does_not_grow(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, chunk=8, buffer_s=1.0) as session:
            speaking = asyncio.create_task(say(session, np.tile(SPEECH, 10), 100))
            for _ in range(20):
                await asyncio.sleep(0.002)
            assert not speaking.done()
            assert 1 <= session.waiting_s <= 2
            frames = []
            while not (frames and frames[-1].last):
                clock.time += 1.0  # it takes that long with every frame
                frames += await take(session, 1)
                assert session.waiting_s <= 2
            await speaking
        check_speech(frames, np.tile(SPEECH, 10))
        check_steady(frames)

    run(main, clock)


def test_one_large_push_is_taken_bit_by_bit(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, chunk=8, buffer_s=1.0) as session:
            speaking = asyncio.create_task(say(session, np.tile(SPEECH, 10)))
            frames = await take(session, 1)
            while frames[-1].speech_frame != 440:  # of 498; two seconds more may have been taken
                frames += await take(session, 1)
            assert not speaking.done()
            frames += await until_last(session)
            await speaking
        check_speech(frames, np.tile(SPEECH, 10))

    run(main, clock)


def test_a_consumer_that_was_held_up_does_not_get_a_burst(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            await take(session, 5)
            clock.time += 10
            times = []
            for _ in range(5):
                await anext(session)
                times.append(clock.time)
            assert np.diff(times) == pytest.approx([0.04] * 4)

    run(main, clock)


def test_the_frame_after_an_interruption_is_idle_and_calls_are_cancelled(fake: LiveFake, clock: TestClock) -> None:
    hangs = threading.Event()

    def hang_later(number: int, seen, context) -> None:
        if seen.first >= 8 and seen.model and not hangs.is_set():
            seen.cancelled.wait(WAIT_S)

    fake.on_request = hang_later

    async def main() -> None:
        clock.waits_for_calls = False
        async with LiveSession(fake.url, clock=clock, first_chunk=4, chunk=8, in_flight=2, buffer_s=3) as session:
            speaking = asyncio.create_task(say(session, np.tile(SPEECH, 4)))
            frames = []
            while not (frames and frames[-1].speech_frame == 2):
                frames += await take(session, 1)
                await asyncio.sleep(0.002)
            before = clock.time
            await session.interrupt()
            frames += await take(session, 1)
            assert clock.time - before <= 0.0401  # the bound: one frame
            frames += await take(session, 20)
            await asyncio.wait_for(speaking, 1)
            check_steady(frames)
            assert [frame.speech_id for frame in frames[-21:]] == [None] * 21
            assert not session.pending
            late = [seen for seen in fake.seen if seen.first >= 8]
            assert late
            for seen in late:
                assert await asyncio.to_thread(seen.cancelled.wait, 5)

            hangs.set()
            clock.waits_for_calls = True
            await say(session, SPEECH)
            frames = await until_last(session)
            check_speech(frames, SPEECH, number=2)
            check_steady(frames)
            assert {frame.speech_id for frame in frames} == {None, 2}

    run(main, clock)


def test_interrupting_before_the_first_frame_shows_nothing_of_the_speech(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            await session.push(SPEECH, RATE)
            await take(session, 1)
            await session.interrupt()
            assert await session.end_speech() is None
            frames = await take(session, 60)
            check_steady(frames)
            assert {frame.state for frame in frames} == {"idle"}

    run(main, clock)


def test_starved_of_audio_it_waits_in_motion_and_resumes_in_sync(fake: LiveFake, clock: TestClock) -> None:
    clock.delay = lambda number: 0.07

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            await session.push(SPEECH[:800], RATE)
            frames = await take(session, 80)
            held = frames[-40:]
            assert {(frame.state, frame.speech_id, frame.speech_frame) for frame in held} == {("speaking", 1, None)}
            assert len({frame.footage_position for frame in held}) == 40
            await session.push(SPEECH[800:], RATE)
            await session.end_speech()
            frames += await until_last(session)
        check_speech(frames, SPEECH)
        check_steady(frames)

    run(main, clock)


def test_late_answers_are_waited_for_without_a_jump(fake: LiveFake, clock: TestClock) -> None:
    clock.delay = lambda number: {0: 1.3, 3: 2.0}.get(number, 0.03)

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            frames = await take(session, 1)
            await say(session, SPEECH)
            frames += await until_last(session)
        check_speech(frames, SPEECH)
        check_steady(frames)
        begun = next(frame.index for frame in frames if frame.speech_frame == 0)
        assert {frame.state for frame in frames[begun:]} == {"speaking"}
        still = [a.footage_position == b.footage_position for a, b in itertools.pairwise(frames)]
        assert "111" in "".join(str(int(one)) for one in still)  # it rests
        assert "1111" not in "".join(str(int(one)) for one in still)  # but not for long

    run(main, clock)


def test_a_server_slower_than_speech_makes_few_pauses(fake: LiveFake, clock: TestClock) -> None:
    clock.delay = lambda number: 0.25  # 4 frames in the time of 6

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, in_flight=1, **OPTIONS) as session:
            await say(session, np.tile(SPEECH, 3))
            frames = await until_last(session)
        check_speech(frames, np.tile(SPEECH, 3))
        check_steady(frames)
        begun = next(frame.index for frame in frames if frame.speech_frame == 0)
        pauses = [key for key, _ in itertools.groupby(frames[begun:], lambda frame: frame.speech_frame is None) if key]
        assert 1 <= len(pauses) <= 5

    run(main, clock)


@pytest.mark.parametrize(("delay", "frames_until_speech"), [(0.01, 2), (0.3, 9)])
def test_the_start_of_a_speech_is_placed_where_its_answer_is_expected(
    fake: LiveFake, clock: TestClock, delay: float, frames_until_speech: int
) -> None:
    clock.delay = lambda number: delay

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            for _ in range(4):
                await take(session, 5)
                await say(session, SPEECH[:1000])
                frames = await until_last(session)
            idle = [frame.footage_position for frame in frames if frame.speech_frame is None]
            assert len(idle) == frames_until_speech - 1
            assert [frame.footage_position for frame in frames] == list(range(idle[0], idle[0] + len(frames)))

    run(main, clock)


def test_requests_grow_after_late_frames_and_shrink_again(fake: LiveFake, clock: TestClock) -> None:
    """Speech at its own pace from a server whose answers take longer now and then, at first."""
    clock.delay = lambda number: 0.45 if number % 3 == 2 else 0.05

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, first_chunk=2, **OPTIONS) as session:
            late, sizes = [], []
            for number in range(1, 14):
                if number == 9:
                    clock.delay = lambda number: 0.05
                frames = []
                for start in range(0, len(SPEECH), FRAME):
                    await session.push(SPEECH[start : start + FRAME], RATE)
                    frames += await take(session, 1)
                await session.end_speech()
                frames += await until_last(session)
                check_speech(frames, SPEECH, number)
                late.append(sum(frame.state == "speaking" and frame.speech_frame is None for frame in frames))
                sizes.append([seen.count for seen in fake.seen if seen.first == 0][-1])
        assert sum(late[1:8]) < late[0]
        assert not any(late[8:])
        assert max(sizes) == 4 and sizes[-1] == 2

    run(main, clock)


def test_two_speeches_follow_each_other_without_a_gap(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            await say(session, SPEECH)
            await say(session, SPEECH[:600])
            frames = await until_last(session) + await until_last(session)
            check_speech(frames, SPEECH, number=1)
            check_speech(frames, SPEECH[:600], number=2)
            check_steady(frames)
            begun = next(frame.index for frame in frames if frame.speech_frame == 0)
            assert all(frame.speech_frame is not None for frame in frames[begun:])
            assert (await anext(session)).state == "idle"

    run(main, clock)


@pytest.mark.slow
def test_sound_and_picture_do_not_drift_in_ten_minutes(fake: LiveFake, clock: TestClock) -> None:
    """Speech at its own pace with gaps in the supply: each frame's sound is the picture's own, and none is lost."""
    random = np.random.default_rng(5)
    clock.delay = lambda number: float(random.choice([0.02, 0.05, 0.3], p=[0.6, 0.35, 0.05]))

    async def main() -> None:
        pushed, length = np.zeros(2 * 15_000 * FRAME, np.float32), 0
        async with LiveSession(fake.url, clock=clock, in_flight=3, **OPTIONS) as session:
            begin, index, heard, supply, burst = clock.time, 0, 0, 0.0, 20.0
            async for frame in session:
                assert frame.index == index
                assert clock.time - begin == pytest.approx(frame.time_s, abs=1e-6)
                if frame.audio_span:
                    start, stop = frame.audio_span
                    assert start == heard
                    np.testing.assert_array_equal(frame.audio, pushed[start:stop])
                    seen = np.frombuffer(frame.jpeg.rpartition(b"@")[0], np.float32)
                    np.testing.assert_array_equal(frame.audio, seen[TIMELINE.samples_before :][:FRAME])
                    heard = stop
                index += 1
                if index == 15_000:
                    break
                supply += random.choice([0.0, 1.0, 3.0], p=[0.5, 0.2, 0.3])  # 1.1 frames of speech a frame, in bursts
                if supply >= burst:
                    piece = random.uniform(-1, 1, int(supply * FRAME)).astype(np.float32)
                    pushed[length : length + len(piece)] = piece
                    length += len(piece)
                    await session.push(piece, RATE)
                    supply, burst = 0.0, float(random.choice([10, 20, 60]))
        assert heard > 9 * 60 * RATE

    run(main, clock)


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending again at once; how often stays as it is."""
    monkeypatch.setattr(retry, "FIRST_DELAY_S", 1e-6)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.NOT_FOUND])
def test_a_failing_server_is_replaced_by_the_next_address(fake: LiveFake, clock: TestClock, code) -> None:
    def fail_later(number: int, seen, context) -> None:
        if seen.first >= 12:
            fake.loaded.clear()
            context.abort(code, "Request for unknown model: 'x' is not found")

    fake.on_request = fail_later

    async def main() -> None:
        with running(LiveFake()) as second:
            async with LiveSession([fake.url, second.url], clock=clock, **OPTIONS) as session:
                await say(session, SPEECH)
                frames = await until_last(session)
            check_speech(frames, SPEECH)
            check_steady(frames)
            done = [seen.first for seen in fake.seen if seen.first < 12] + [seen.first for seen in second.seen]
            assert len(done) == len(set(done))
            assert second.seen

    run(main, clock)


def test_giving_up_is_reported_once_and_the_session_goes_on(fake: LiveFake, clock: TestClock, no_delay: None) -> None:
    broken = threading.Event()
    broken.set()

    def fail(number: int, seen, context) -> None:
        if broken.is_set():
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    fake.on_request = fail

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            await take(session, 2)
            await say(session, SPEECH)
            with pytest.raises(ServerUnavailable):
                await take(session, 2000)
            frames = await take(session, 20)
            assert {frame.state for frame in frames} == {"idle"}
            broken.clear()
            await say(session, SPEECH)
            frames += await until_last(session)
            check_speech(frames, SPEECH, number=2)
            check_steady(frames)

    run(main, clock)


def test_missing_idle_frames_stand_still_then_are_reported(fake: LiveFake, clock: TestClock, no_delay: None) -> None:
    fake.facts["footage_frames"] = "1000"

    def fail(context) -> None:
        if fake.idle:
            context.abort(grpc.StatusCode.INTERNAL, "stage died")

    fake.on_idle = fail

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            frames = await take(session, 10)
            with pytest.raises(ServerError, match="stage died"):
                await take(session, 30)
            fake.on_idle = lambda context: None
            frames += await take(session, 60)
            assert {b.footage_position - a.footage_position for a, b in itertools.pairwise(frames)} == {0, 1}
            assert frames[-1].footage_position > 20

    run(main, clock)


def test_a_replaced_avatar_is_noticed(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            await take(session, 30)
            fake.facts |= {"avatar_key": "78", "footage_frames": "400"}
            await session.push(SPEECH[:1], RATE)
            frames = await take(session, 30)
            assert frames[-1].jpeg == idle_picture(frames[-1].footage_position, 78)
            assert session.avatar.key == 78
            fake.facts["avatar_key"] = "79"  # now a fetch fails first
            frames = await take(session, 60)
            assert frames[-1].jpeg == idle_picture(frames[-1].footage_position, 79)

    run(main, clock)


def test_a_speech_without_sound_is_none(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            assert await session.end_speech() is None
            await session.push(b"", RATE)
            assert await session.end_speech() is None
            assert {frame.state for frame in await take(session, 50)} == {"idle"}
            assert await session.push(SPEECH[:1], RATE) == 2
            assert await session.end_speech() == 2
            frames = await until_last(session)
            assert [frame.speech_frame for frame in frames if frame.speech_id] == [0]
            check_speech(frames, SPEECH[:1], number=2)

    run(main, clock)


def test_wrong_use_is_refused_and_harms_nothing(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        with pytest.raises(InvalidRequest, match=r"chunk is 16.*1 to 8"):
            await LiveSession(fake.url, clock=clock).open()
        with pytest.raises(InvalidRequest, match=r"buffer_s is 0\.1"):
            await LiveSession(fake.url, clock=clock, chunk=8, buffer_s=0.1).open()
        with pytest.raises(InvalidRequest, match=r"sound_rate is 11026.*multiple of the 25 frames"):
            await LiveSession(fake.url, clock=clock, chunk=8, sound_rate=11_025 + 1).open()
        with pytest.raises(InvalidRequest, match="no server address"):
            LiveSession([], clock=clock)
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            with pytest.raises(LipsyncError, match="finite"):
                await session.push(np.array([0, np.nan], np.float32), 999)
            await session.push(SPEECH[:1000], RATE)
            with pytest.raises(InvalidRequest, match=r"rate is 999.*1000"):
                await session.push(SPEECH, 999)
            with pytest.raises(LipsyncError, match="finite"):
                await session.push(np.array([0, np.nan], np.float32), RATE)
            await say(session, SPEECH[1000:])
            check_speech(await until_last(session), SPEECH, number=2)  # the refused one has used a number

    run(main, clock)


def test_closing_ends_the_iterator_and_everything_that_waits(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        others = asyncio.all_tasks()
        session = LiveSession(fake.url, clock=clock, chunk=8, buffer_s=1.0)
        speaking = asyncio.create_task(say(session, np.tile(SPEECH, 10)))
        await take(session, 10)
        await session.close()
        with pytest.raises(LipsyncError, match="closed"):
            await speaking
        assert [frame async for frame in session] == []
        with pytest.raises(LipsyncError, match="closed"):
            await session.push(SPEECH, RATE)
        assert asyncio.all_tasks() == others

    run(main, clock)


def test_talking_frames_get_the_footage_positions_they_are_shown_at(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            frames = await take(session, 7)
            await say(session, SPEECH)
            frames += await until_last(session)
        asked = positions_asked(sorted(fake.seen, key=lambda seen: seen.first))
        assert asked == [frame.footage_position for frame in frames if frame.speech_frame is not None]

    run(main, clock)


def test_int16_at_another_rate_equals_converting_the_whole(fake: LiveFake, clock: TestClock) -> None:
    sound = np.random.default_rng(3).integers(-9000, 9000, 44100, np.int16)

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            for start in range(0, 2 * len(sound), 777):  # bytes, cut within samples too
                await session.push(sound.tobytes()[start : start + 777], 44100)
            await session.end_speech()
            check_speech(await until_last(session), to_speech(sound, 44100, to_rate=RATE))

    run(main, clock)


def test_frames_carry_the_producers_own_sound(fake: LiveFake, clock: TestClock) -> None:
    sound = np.random.default_rng(4).integers(-9000, 9000, 24_000, np.int16)

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, sound_rate=24_000, **OPTIONS) as session:
            assert session.sound_rate == 24_000
            frames = await take(session, 2)
            for start in range(0, 2 * len(sound), 777):
                await session.push(sound.tobytes()[start : start + 777], 24_000)
            await session.end_speech()
            frames += await until_last(session)
            await session.push(sound, 24_000)
            await take(session, 15)
            await session.interrupt()
            frames += await take(session, 1)
        assert {frame.audio.shape for frame in frames} == {(960,)}
        spoken = [frame for frame in frames if frame.audio_span]
        np.testing.assert_array_equal(np.concatenate([frame.audio for frame in spoken]), sound / np.float32(32768))
        assert [frame.audio_span for frame in spoken] == [(FRAME * n, FRAME * (n + 1)) for n in range(25)]
        assert not any(frame.audio.any() for frame in frames if not frame.audio_span)

    run(main, clock)


def test_long_silence_is_rendered_once_for_each_footage_frame(fake: LiveFake, clock: TestClock) -> None:
    speech = np.concatenate([SPEECH, np.zeros(60 * FRAME, np.float32), SPEECH, np.zeros(40 * FRAME + 5, np.float32)])

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, ahead_s=0.5, **OPTIONS) as session:
            await say(session, speech)
            frames = await until_last(session)
            check_speech(frames, speech)
            check_steady(frames)
            rendered = sum(seen.count for seen in fake.seen)
            total = TIMELINE.frame_count(len(speech))
            # Of each silence, the frames whose whole context is silent: all but 3 and 3 of 60, all but 3 of 41. Ten
            # were rendered before the first could be shown again, and some more were on their way.
            assert total - (54 + 38) + 10 <= rendered <= total - (54 + 38) + 10 + 10
            before = len(fake.seen)
            await say(session, np.zeros(30 * FRAME, np.float32))
            frames = await until_last(session)
            check_speech(frames, np.zeros(30 * FRAME, np.float32), number=2)
            assert sum(seen.count for seen in fake.seen[before:]) == 3  # the beginning of a speech is different

    run(main, clock)


def test_a_shared_client_stays_open(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with AsyncClient(fake.url) as client:
            for _ in range(2):
                async with LiveSession(client, clock=clock, **OPTIONS) as session:
                    await say(session, SPEECH)
                    check_speech(await until_last(session), SPEECH)

    run(main, clock)
