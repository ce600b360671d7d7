"""What was pushed into a live session and not heard yet: tags, marks, and what comes back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from client_fake import TIMELINE, running
from hypothesis import given, settings
from hypothesis import strategies as st
from live_fake import FRAME, LiveFake

from lipsync_client import InvalidRequest, LiveFrame, LiveSession, Mark, SpeechPart, Timeline
from lipsync_client.live.queue import SpeechQueue
from lipsync_client.live.speech import Speech
from live_clock import TestClock, run, take, until_last

RATE = TIMELINE.sample_rate
SPEECH = np.random.default_rng(0).uniform(-1, 1, 1990).astype(np.float32)  # 50 frames, the last one not full
OPTIONS = {"chunk": 8, "buffer_s": 100.0}
LINE = Timeline(16_000, 25, 6_321, 7_240, 32, 28_800_000)


@pytest.fixture
def fake() -> Iterator[LiveFake]:
    with running(LiveFake()) as server:
        yield server


def spoken(frames: list[LiveFrame]) -> list[LiveFrame]:
    return [frame for frame in frames if frame.audio_span]


def shown(frames: list[LiveFrame]) -> np.ndarray:
    """The sound of the frames, without what fills up a last one."""
    return np.concatenate(
        [frame.audio[: frame.audio_span[1] - frame.audio_span[0]] for frame in spoken(frames)] or [np.zeros(0)]
    )


def samples(entries: list[SpeechPart | Mark]) -> np.ndarray:
    return np.concatenate([entry.samples for entry in entries if isinstance(entry, SpeechPart)])


def values(entries: list[SpeechPart | Mark]) -> list[object]:
    """In order: tags of sound, values of marks."""
    return [entry.value if isinstance(entry, Mark) else entry.tag for entry in entries]


async def until_spoken(session: LiveSession, count: int) -> list[LiveFrame]:
    frames = []
    while len(spoken(frames)) < count:
        frames += await take(session, 1)
    return frames


def test_a_frame_has_the_tag_of_its_first_sample_and_the_marks_it_reaches(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            session.mark("before")
            await session.push(SPEECH[: 5 * FRAME], RATE, tag="a")
            session.mark("at the end of a frame")
            await session.push(SPEECH[5 * FRAME : 8 * FRAME - 1], RATE, tag="b")
            session.mark("within a frame")
            await session.push(SPEECH[8 * FRAME - 1 :], RATE, tag="c")
            session.mark("before the end")
            await session.end_speech()
            session.mark("after the end")
            await session.push(SPEECH[:100], RATE, tag="d")
            await session.end_speech()
            frames = await until_last(session) + await until_last(session)
            assert not session.pending
            session.mark("silence")
            assert session.pending
            frames += await take(session, 2)
        assert frames[0].marks == ("before",) and frames[0].state == "idle"
        said = spoken(frames)
        assert [frame.tag for frame in said] == ["a"] * 5 + ["b"] * 3 + ["c"] * 42 + ["d"] * 3
        reached = {frame.marks: number for number, frame in enumerate(said) if frame.marks}
        assert reached == {
            ("at the end of a frame",): 4,
            ("within a frame",): 7,
            ("before the end", "after the end"): 49,
        }
        assert [frame.marks for frame in frames[-2:]] == [("silence",), ()]
        assert {frame.tag for frame in frames if not frame.audio_span} == {None}

    run(main, clock)


def test_a_mark_behind_sound_that_the_lookahead_holds_back_waits_for_it(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            await session.push(SPEECH[:400], RATE)
            session.mark("end")
            frames = await take(session, 60)
            assert len(spoken(frames)) == TIMELINE.frames_within(400)
            assert session.pending and not any(frame.marks for frame in frames)
            await session.end_speech()
            frames = await until_last(session)
            assert [frame.marks for frame in frames if frame.marks] == [("end",)] and frames[-1].marks

    run(main, clock)


def test_what_waits_is_told_and_becomes_less_with_each_frame(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            assert (session.unheard, session.waiting_s, session.pending) == ([], 0, False)
            await session.push(SPEECH[:1000], RATE, tag="a")
            await session.push(SPEECH[1000:], RATE, tag="b")
            await session.end_speech()
            for frame in range(50):
                assert session.waiting_s == pytest.approx((len(SPEECH) - frame * FRAME) / RATE)
                np.testing.assert_array_equal(samples(session.unheard), SPEECH[frame * FRAME :])
                assert values(session.unheard) == (["a", "b"] if frame < 25 else ["b"])
                await until_spoken(session, 1)
            assert (session.unheard, session.waiting_s, session.pending) == ([], 0, False)

    run(main, clock)


def test_an_interruption_returns_all_that_was_not_heard_in_order(fake: LiveFake, clock: TestClock) -> None:
    """With the rest of a push that waits for room, and the marks behind it."""
    large = np.tile(SPEECH, 5)

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, chunk=8, buffer_s=2.0) as session:
            await session.push(SPEECH[:500], RATE, tag="a")
            session.mark(1)
            await session.push(SPEECH[500:600], RATE, tag="b")
            await session.end_speech()
            session.mark(2)
            pushing = asyncio.create_task(session.push(large, RATE, tag="c"))
            frames = await until_spoken(session, 6)
            session.mark(3)
            assert not pushing.done()
            rest = await session.interrupt()
            assert not session.pending
            assert await asyncio.wait_for(pushing, 5) == 2
            assert values(rest) == ["a", 1, "b", 2, "c", 3]
            assert {entry.rate for entry in rest if isinstance(entry, SpeechPart)} == {RATE}
            np.testing.assert_array_equal(
                np.concatenate([shown(frames), samples(rest)]), np.concatenate([SPEECH[:600], large])
            )
            assert await session.interrupt() == []
            assert not any(frame.marks or frame.audio_span for frame in await take(session, 60))
            assert await session.push(SPEECH, RATE, tag="d") == 3  # a speech of its own
            await session.end_speech()
            frames = await until_last(session)
            np.testing.assert_array_equal(shown(frames), SPEECH)
            assert {frame.tag for frame in spoken(frames)} == {"d"}

    run(main, clock)


@pytest.mark.parametrize("seed", range(6))
def test_shown_and_returned_is_what_was_pushed(fake: LiveFake, clock: TestClock, seed: int) -> None:
    random = np.random.default_rng(seed)
    cuts = np.sort(random.integers(0, len(SPEECH), 12))

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, chunk=8, buffer_s=float(random.choice([0.5, 100]))) as session:

            async def speak() -> None:
                for number, piece in enumerate(np.split(SPEECH, cuts)):
                    await session.push(piece, RATE, tag=number)

            speaking = asyncio.create_task(speak())
            frames = await until_spoken(session, int(random.integers(1, 40)))
            np.testing.assert_array_equal(samples(session.unheard), SPEECH[len(shown(frames)) :][: pushed(session)])
            speaking.cancel()  # what it had not given the session is its own
            await asyncio.wait([speaking])
            rest = samples(await session.interrupt())
            both = np.concatenate([shown(frames), rest])
            np.testing.assert_array_equal(both, SPEECH[: len(both)])

    def pushed(session: LiveSession) -> int:
        return round(session.waiting_s * RATE)

    run(main, clock)


def test_a_push_that_is_cancelled_while_it_waits_leaves_nothing_behind(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, chunk=8, buffer_s=1.0) as session:
            pushing = asyncio.create_task(session.push(np.tile(SPEECH, 5), RATE))
            frames = await until_spoken(session, 3)
            pushing.cancel()
            await asyncio.wait([pushing])
            assert session.waiting_s <= 2
            await session.end_speech()
            session.mark("end")
            frames += await until_last(session)
            assert frames[-1].marks == ("end",) and not session.pending
            taken = shown(frames)
            assert 1000 <= len(taken) <= 2000
            np.testing.assert_array_equal(taken, np.tile(SPEECH, 5)[: len(taken)])

    run(main, clock)


def test_a_producer_may_use_its_buffer_again(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            buffer = SPEECH.copy()
            await session.push(buffer, RATE)
            buffer[:] = 0
            await session.end_speech()
            np.testing.assert_array_equal(shown(await until_last(session)), SPEECH)

    run(main, clock)


def test_a_speech_too_short_for_a_frame_is_forgotten_and_its_marks_are_not(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            await session.push(SPEECH, RATE)
            await session.end_speech()
            session.mark(1)
            await session.push(SPEECH[:1], 96_000, tag="short")
            session.mark(2)
            assert await session.end_speech() is None
            await session.push(SPEECH, RATE)
            await session.end_speech()
            frames = await until_last(session)
            assert frames[-1].marks == (1, 2)
            frames = await until_last(session)
            assert len(spoken(frames)) == 50 and not session.pending

    run(main, clock)


def failing(seen, context) -> None:
    if seen.first >= 8:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "too tired")


def test_after_a_failure_the_rest_is_returned(fake: LiveFake, clock: TestClock) -> None:
    fake.on_request = lambda number, seen, context: failing(seen, context)
    large = np.tile(SPEECH, 3)

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, chunk=8, buffer_s=2.0) as session:
            pushing = asyncio.create_task(session.push(large, RATE, tag="a"))
            frames = []
            with pytest.raises(InvalidRequest, match="too tired"):
                while True:
                    frames += await take(session, 1)
            await asyncio.wait_for(pushing, 5)
            session.mark(1)
            await session.push(SPEECH, RATE, tag="b")  # before anybody has dealt with the failure
            assert session.pending
            rest = await session.interrupt()
            assert values(rest) == ["a", 1, "b"]
            np.testing.assert_array_equal(
                np.concatenate([shown(frames), samples(rest)]), np.concatenate([large, SPEECH])
            )
            assert {frame.state for frame in await take(session, 40)} == {"idle"}

    run(main, clock)


def test_who_goes_on_after_a_failure_loses_the_sound_and_gets_the_marks(fake: LiveFake, clock: TestClock) -> None:
    fake.on_request = lambda number, seen, context: failing(seen, context)

    async def main() -> None:
        async with LiveSession(fake.url, clock=clock, **OPTIONS) as session:
            await session.push(SPEECH, RATE, tag="a")
            session.mark(1)
            await session.push(SPEECH, RATE, tag="a")
            await session.end_speech()
            session.mark(2)
            with pytest.raises(InvalidRequest, match="too tired"):
                await take(session, 200)
            fake.on_request = lambda number, seen, context: None
            await session.push(SPEECH, RATE, tag="b")
            await session.end_speech()
            session.mark(3)
            frames = await until_last(session)
            assert frames[0].marks == (1, 2) and frames[-1].marks == (3,)
            np.testing.assert_array_equal(shown(frames), SPEECH)
            assert {frame.tag for frame in spoken(frames)} == {"b"}
            assert not session.pending

    run(main, clock)


@settings(deadline=None, max_examples=60)
@given(
    cuts=st.lists(st.integers(1, 9_000), min_size=1, max_size=8),
    rate=st.sampled_from([8_000, 16_000, 24_000, 48_000]),
    stop=st.integers(0, 60),
    end=st.booleans(),
)
def test_every_sample_is_shown_or_returned_wherever_it_is_cut(cuts: list[int], rate: int, stop: int, end: bool) -> None:
    """And each mark comes with the frame that shows the last sample before it."""
    whole = np.random.default_rng(len(cuts)).uniform(-1, 1, sum(cuts)).astype(np.float32)
    queue, speech, at = SpeechQueue(), Speech(1, rate, LINE, rate), 0
    for size in cuts:
        queue.put(SpeechPart(whole[at : at + size], rate, at), speech)
        speech.push(whole[at : at + size])
        at += size
        queue.mark(at)
    if end:
        speech.end()
    sounds, heard = [], 0
    while speech.available and speech.shown < stop:
        speech.request(1, 0)
        frame, speech.shown = speech.shown, speech.shown + 1
        taken = queue.take(speech.pushed(frame), speech, last=speech.finished)
        sounds.append(speech.sound(frame, taken.samples))
        before, heard = heard, min(heard + rate // 25, len(whole))
        assert list(taken.marks) == [mark for mark in np.cumsum(cuts) if before < mark <= heard]
        assert taken.tag <= before < taken.tag + cuts[int(np.searchsorted(np.cumsum(cuts), before, "right"))]
    assert {len(sound) for sound in sounds} <= {rate // 25}
    rest = queue.clear()
    both = np.concatenate([*sounds, np.zeros(0, np.float32)])[:heard], samples([SpeechPart(whole[:0], rate), *rest])
    np.testing.assert_array_equal(np.concatenate(both), whole)
    assert values(rest)[1:] == sorted(values(rest)[1:])


@pytest.mark.parametrize("rate", [11_040, 44_100])
def test_at_another_rate_marks_and_tags_keep_their_time(rate: int) -> None:
    """Where frames do not end with a sample, too: none counts as shown before its end."""
    whole = np.random.default_rng(0).uniform(-1, 1, 20 * rate).astype(np.float32)
    ends = [frame * rate // 25 for frame in range(0, 501, 4)]
    cuts = sorted({end + offset for end in ends for offset in (-1, 0, 1)} & set(range(20 * rate + 1)))
    queue, speech = SpeechQueue(), Speech(1, rate, LINE, 24_000)
    for start, stop in itertools.pairwise(cuts):
        queue.put(SpeechPart(whole[start:stop], rate, start), speech)
        speech.push(whole[start:stop])
        queue.mark(stop)
    speech.end()
    marks, tags = {}, []
    for frame in range(speech.total):
        speech.request(1, 0)
        speech.shown += 1
        taken = queue.take(speech.pushed(frame), speech, last=speech.finished)
        marks |= dict.fromkeys(taken.marks, frame)
        tags.append(taken.tag)
    assert marks == {stop: -(-stop * 25 // rate) - 1 for stop in cuts[1:]}
    assert tags == [max(cut for cut in cuts if cut <= frame * rate // 25) for frame in range(500)]
    assert not queue
