"""The face of a voice agent, on a clock that the tests control, against a fake server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterator

import grpc
import numpy as np
import pytest
from client_fake import TIMELINE, running
from live_fake import LiveFake

from lipsync_client import AudioError, LipsyncError, LiveSession, Mark
from lipsync_client.agents.face import AgentFace, AvatarFrame
from lipsync_client.connection import Connection
from live_clock import TestClock, run

RATE = 24_000
SIZE = RATE // 25
SPEECH = np.random.default_rng(0).integers(-9000, 9000, 50 * SIZE - 300, np.int16)
END = "end"
NOBODY = "127.0.0.1:9"  # the port of a service that nothing runs any more


@pytest.fixture
def fake() -> Iterator[LiveFake]:
    with running(LiveFake()) as server:
        yield server


@pytest.fixture(autouse=True)
def small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake takes 8 frames a request."""
    monkeypatch.setattr("lipsync_client.agents.face.LiveSession", functools.partial(LiveSession, chunk=8))


@contextlib.asynccontextmanager
async def opened(url: str, **options) -> AsyncIterator[AgentFace]:
    face = AgentFace(url, **options)
    try:
        await face.open()
        yield face
    finally:
        await face.close()


async def say(face: AgentFace, speech: np.ndarray = SPEECH, piece: int = 1000, rate: int = RATE) -> None:
    for start in range(0, len(speech), piece):
        await face.push(speech[start : start + piece], rate, tag=start // piece)
    await face.end()


async def take(face: AgentFace, count: int) -> list[AvatarFrame]:
    return [await anext(face) for _ in range(count)]


async def until(face: AgentFace, mark: object, most: int = 1000) -> list[AvatarFrame]:
    moments = []
    while not (moments and mark in moments[-1].marks):
        moments.append(await anext(face))
        assert len(moments) < most
    return moments


def heard(moments: list[AvatarFrame]) -> np.ndarray:
    return np.concatenate([moment.sound for moment in moments if moment.sound is not None] or [np.zeros(0, np.int16)])


def check_heard(moments: list[AvatarFrame], speech: np.ndarray = SPEECH) -> None:
    """All of it, and nothing else but what fills up its last frame."""
    sound = heard(moments)
    np.testing.assert_array_equal(sound[: len(speech)], speech)
    assert not sound[len(speech) :].any() and len(sound) < len(speech) + SIZE


def talks(moment: AvatarFrame) -> bool:
    return moment.jpeg is not None and not moment.jpeg.startswith(b"idle")


def errors(moments: list[AvatarFrame]) -> list[LipsyncError]:
    return [moment.error for moment in moments if moment.error]


def test_sound_comes_with_its_pictures_and_marks_keep_their_place(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with opened(fake.url, sound_rate=RATE, clock=clock) as face:
            moments = await take(face, 3)
            await face.push(SPEECH[:12_000], RATE, "a")
            face.mark("middle")
            await face.push(SPEECH[12_000:], RATE, "b")
            await face.end()
            face.mark(END)
            moments += await until(face, END)
            assert not face.pending
            moments += await take(face, 3)
        check_heard(moments)
        assert all(talks(moment) == (moment.sound is not None) for moment in moments)
        upto = next(number for number, moment in enumerate(moments) if "middle" in moment.marks)
        assert len(heard(moments[: upto + 1])) == 13 * SIZE  # 12.5 frames come before it
        assert [moment.tag for moment in moments if talks(moment)] == ["a"] * 13 + ["b"] * 37
        assert moments[-4].marks == (END,) and talks(moments[-4])
        assert not errors(moments)

    run(main, clock)


@pytest.mark.parametrize("rate", [24_000, 11_040])
def test_every_sound_has_its_tag_wherever_a_speech_ends(fake: LiveFake, clock: TestClock, rate: int) -> None:
    """At a rate that is not a multiple of the frames a second, samples and frames do not end together."""

    async def main() -> None:
        async with opened(fake.url, sound_rate=RATE, clock=clock) as face:
            for extra in range(0, 20, 4):
                await face.push(SPEECH[: 40 * rate // 25 + extra], rate, tag=extra)
                await face.end()
                face.mark(END)
                moments = [moment for moment in await until(face, END) if moment.sound is not None]
                assert {moment.tag for moment in moments} == {extra}
                assert not face.pending

    run(main, clock)


def test_an_interruption_drops_sound_and_gives_the_marks_back(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with opened(fake.url, sound_rate=RATE, clock=clock) as face:
            await say(face)
            face.mark(END)
            moments = []
            while not (moments and moments[-1].sound is not None):
                moments += await take(face, 1)
            dropped = await face.interrupt()
            assert [entry.value for entry in dropped if isinstance(entry, Mark)] == [END]
            rest = np.concatenate([entry.samples for entry in dropped if not isinstance(entry, Mark)])
            np.testing.assert_array_equal(rest * 32768, SPEECH[len(heard(moments)) :])
            assert not face.pending
            after = await take(face, 40)
            assert not heard(after).size and not any(talks(moment) for moment in after)
            assert after[0].turn == face.turn != moments[-1].turn
            await say(face)
            face.mark(END)
            check_heard(await until(face, END))

    run(main, clock)


def test_a_pause_of_the_synthesiser_shows_what_the_lookahead_holds_back(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with opened(fake.url, sound_rate=RATE, clock=clock) as face:
            await face.push(SPEECH, RATE)
            moments = await take(face, 80)
            check_heard(moments)
            assert not face.pending
            await face.push(SPEECH[:5000], 48_000)  # a speech of its own, which may have a rate of its own
            await face.end()
            face.mark(END)
            assert len(heard(await until(face, END))) == 3 * SIZE

    run(main, clock)


@pytest.mark.parametrize("piece", [700, 100_000])
def test_a_lost_server_costs_the_mouth_and_not_the_sound(fake: LiveFake, clock: TestClock, piece: int) -> None:
    def fail(number: int, seen, context) -> None:
        if seen.first >= 16:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    fake.on_request = fail

    async def main() -> None:
        async with opened(fake.url, sound_rate=RATE, clock=clock) as face:
            start = clock.time
            await say(face, piece=piece)
            face.mark(END)
            moments = await until(face, END)
            assert clock.time - start < 2 + 2 + 2.5  # the speech, patience, and a little
            check_heard(moments)
            tags = [moment.tag for moment in moments if moment.sound is not None]
            assert tags == [frame * SIZE // piece for frame in range(50)]
            assert 0 < sum(talks(moment) for moment in moments) < 50
            assert all(moment.jpeg for moment in moments)
            assert len(errors(moments)) == 1

            moments = await take(face, 200)  # the fake answers other questions: it counts as back
            fake.on_request = lambda number, seen, context: None
            face.mark("before")
            await say(face)
            face.mark(END)
            moments += await until(face, END)
            check_heard(moments)
            assert sum(talks(moment) for moment in moments) == 50
            assert not errors(moments)

    run(main, clock)


def test_a_speech_that_lost_its_face_gets_it_back_with_the_next(fake: LiveFake, clock: TestClock) -> None:
    """Not in the middle, where the server has been back for long and nothing waits."""

    def fail(number: int, seen, context) -> None:
        if seen.first >= 16:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "too tired")

    fake.on_request = fail
    speech = np.tile(SPEECH[: 40 * SIZE], 5)

    async def main() -> None:
        async with opened(fake.url, sound_rate=RATE, clock=clock) as face:
            moments = []
            for frame in range(200):  # at its own pace, and more slowly for a while, so that nothing waits any more
                await face.push(speech[frame * SIZE : (frame + 1) * SIZE], RATE)
                moments += await take(face, 2 if 100 <= frame < 120 else 1)
            await face.end()
            face.mark(END)
            moments += await until(face, END)
            check_heard(moments, speech)
            lost = next(number for number, moment in enumerate(moments) if moment.error)
            assert lost < 100 and any(map(talks, moments[:lost])) and not any(map(talks, moments[lost:]))
            await say(face, SPEECH[: 10 * SIZE])
            face.mark(END)
            assert sum(map(talks, await until(face, END))) == 10

    run(main, clock)


def test_without_any_server_an_interruption_is_obeyed_and_marks_come(clock: TestClock) -> None:
    async def main() -> None:
        async with opened(NOBODY, sound_rate=RATE, clock=clock) as face:
            face.mark(1)
            await face.push(SPEECH, RATE, "a")
            face.mark(2)
            moments = await take(face, 10)
            rest = await face.interrupt()
            assert [entry.value if isinstance(entry, Mark) else entry.tag for entry in rest] == ["a", 2]
            np.testing.assert_array_equal(heard(moments), SPEECH[: 10 * SIZE])
            np.testing.assert_array_equal(rest[0].samples * 32768, SPEECH[10 * SIZE :])
            face.mark(3)
            moments += await take(face, 10)
            assert len(heard(moments)) == 10 * SIZE and not face.pending
            assert [mark for moment in moments for mark in moment.marks] == [1, 3]

    run(main, clock)


@pytest.mark.parametrize("rate", [RATE, 16_000])
def test_without_any_server_the_speech_is_heard_until_there_is_one(fake: LiveFake, clock: TestClock, rate: int) -> None:
    async def main() -> None:
        async with opened(NOBODY, sound_rate=RATE, clock=clock) as face:
            await say(face, rate=rate)
            face.mark(END)
            moments = await until(face, END)
            assert all(moment.jpeg is None for moment in moments)
            assert len(errors(moments)) == 1
            check_heard(moments)
            assert {moment.rate for moment in moments if moment.sound is not None} == {rate}
            assert all(moment.sound is None or len(moment.sound) <= rate // 25 for moment in moments)  # at its pace
            client = face.session._servers._clients[0]
            client._connection, client._connected = Connection(fake.url), None  # now there is one
            moments = await take(face, 120)
            assert moments[-1].jpeg and not errors(moments)
            await say(face)
            face.mark(END)
            moments = await until(face, END)
            check_heard(moments)
            assert sum(talks(moment) for moment in moments) == TIMELINE.frame_count(len(SPEECH) * 1000 // RATE)

    run(main, clock)


def test_a_speech_that_ends_while_the_server_is_lost_is_heard(fake: LiveFake, clock: TestClock) -> None:
    fake.on_request = lambda number, seen, context: context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    async def main() -> None:
        async with opened(fake.url, sound_rate=RATE, clock=clock) as face:
            await face.push(SPEECH, RATE)
            await clock.sleep_until(clock.time + 10)  # it is given up, and nobody has asked for a moment since
            await face.end()
            face.mark(END)
            moments = await until(face, END)
            check_heard(moments)
            assert len(errors(moments)) == 1

    run(main, clock)


def test_a_speech_too_short_for_a_frame_holds_nothing_up(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with opened(fake.url, sound_rate=RATE, clock=clock) as face:
            await say(face)
            await face.push(SPEECH[:1], 96_000)
            face.mark("within")
            await face.end()
            await say(face)
            face.mark(END)
            moments = await until(face, END)
            assert sum(talks(moment) for moment in moments) == 2 * 50
            assert not face.pending
            assert [mark for moment in moments for mark in moment.marks] == ["within", END]

    run(main, clock)


def test_sound_that_is_refused_leaves_nothing_behind(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with opened(fake.url, sound_rate=RATE, clock=clock) as face:
            with pytest.raises(AudioError, match="reach 30"):
                await face.push(np.full(1000, 30, np.float32), 16_000)
            assert not face.pending
            await say(face)
            face.mark(END)
            check_heard(await until(face, END))

    run(main, clock)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_server_does_everything_is_heard_in_order(fake: LiveFake, clock: TestClock, seed: int) -> None:
    random = np.random.default_rng(seed)

    def fail(number: int, seen, context) -> None:
        if random.random() < 0.4:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    fake.on_request = fail
    clock.delay = lambda number: float(random.choice([0.0, 0.1, 1.0]))

    async def main() -> None:
        said: list[np.ndarray] = []

        async def speak(face: AgentFace) -> None:
            for number in range(6):
                speech = random.integers(1, 9000, int(random.integers(1, 60)) * SIZE, np.int16)
                said.append(speech)
                for start in range(0, len(speech), 5 * SIZE):  # whole frames: a pause may end the speech there
                    await face.push(speech[start : start + 5 * SIZE], RATE)
                    await clock.sleep_until(clock.time + float(random.choice([0.0, 0.1, 0.5])))
                await face.end()
                face.mark(number)

        async with opened(fake.url, sound_rate=RATE, clock=clock) as face:
            speaking = asyncio.create_task(speak(face))
            moments = await until(face, 5, 3000)
            await speaking
        np.testing.assert_array_equal(heard(moments), np.concatenate(said))
        assert [mark for moment in moments for mark in moment.marks] == list(range(6))

    run(main, clock)


def test_speech_without_a_face_is_taken_no_faster_than_it_is_heard(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        async with opened(NOBODY, sound_rate=RATE, clock=clock) as face:
            speaking = asyncio.create_task(say(face, np.tile(SPEECH, 18)))  # 35.8 s
            await take(face, 25)
            assert not speaking.done()
            assert face.waiting_s <= 30.1
            await take(face, 12 * 25)
            assert speaking.done()

    run(main, clock)


def test_closing_ends_the_moments(fake: LiveFake, clock: TestClock) -> None:
    async def main() -> None:
        others = asyncio.all_tasks()
        for url in (fake.url, NOBODY):
            face = AgentFace(url, sound_rate=RATE, clock=clock)
            await face.open()
            await take(face, 60)
            await face.close()
            assert [moment async for moment in face] == []
        assert asyncio.all_tasks() == others

    run(main, clock)
