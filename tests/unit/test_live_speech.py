"""The parts of a live session: pieces of sound, silence, and the walk through the footage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipsync_client import AudioError, SpeechPart, Timeline, to_speech
from lipsync_client.answers import Avatar
from lipsync_client.live.footage import IdleWalk, looped
from lipsync_client.live.queue import SpeechQueue
from lipsync_client.live.speech import Resampler, Speech
from lipsync_composite.loop import footage_index

LINE = Timeline(16_000, 25, 6_321, 7_240, 32, 28_800_000)
RATES = [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000]


def pieces(data, sizes: list[int]):
    at = 0
    while at < len(data):
        for size in sizes:
            yield data[at : at + size]
            at += size


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("sizes", [[1, 2], [160], [7, 1000, 3], [20_000]])
def test_resampled_in_pieces_is_bit_equal_to_the_whole(rate: int, sizes: list[int]) -> None:
    sound = np.random.default_rng(rate).integers(-32768, 32768, 9_999, np.int16)
    stereo = np.stack([sound, sound[::-1]], 1)
    for data in (sound, sound.tobytes(), (sound / 40_000).astype(np.float32), stereo):
        if data is stereo and sizes != [160]:
            continue  # a single row of two channels could as well be two samples of one
        resampler = Resampler(rate, 16_000)
        got = np.concatenate(
            [*(resampler.convert(resampler.decode(piece)) for piece in pieces(data, sizes)), resampler.finish()]
        )
        whole = sound if isinstance(data, bytes) else data
        np.testing.assert_array_equal(got, to_speech(whole, rate))


def test_nothing_pushed_is_nothing() -> None:
    for rate in RATES:
        assert len(Resampler(rate, 16_000).finish()) == 0
        assert len(Resampler(rate, 16_000).convert(np.zeros(0, np.float32))) == 0
    with pytest.raises(AudioError, match="rate is 0"):
        Resampler(0, 16_000)


@settings(deadline=None, max_examples=40)
@given(
    samples=st.integers(1, 60_000),
    sizes=st.lists(st.integers(100, 9_000), min_size=1, max_size=5),
    counts=st.lists(st.integers(1, 25), min_size=1, max_size=5),
)
def test_requests_are_those_of_the_whole_speech(samples: int, sizes: list[int], counts: list[int]) -> None:
    whole = np.random.default_rng(samples).uniform(-1, 1, samples).astype(np.float32)
    speech, asked, turn = Speech(1, 16_000, LINE, 16_000), [], 0

    def ask() -> None:
        nonlocal turn
        while speech.available and (speech.ended or speech.available >= counts[turn % len(counts)]):
            first, count = speech.requested, min(counts[turn % len(counts)], speech.available)
            asked.append((first, count, speech.request(count, 0)))
            speech.shown = speech.requested
            turn += 1

    for piece in pieces(whole, sizes):
        speech.push(piece)
        ask()
        assert len(speech._heard._kept) <= 4 * (6_321 + 7_240 + 25 * 640 + 9_000)
    speech.end()
    ask()
    assert sum(count for _, count, _ in asked) == speech.total == LINE.frame_count(samples)
    for first, count, request in asked:
        start, audio = LINE.slice(whole, first, count)
        assert (request.audio_start, request.first_frame, request.frame_count) == (start, first, count)
        np.testing.assert_array_equal(request.audio, audio)


@settings(deadline=None, max_examples=40)
@given(
    samples=st.integers(200, 40_000),
    rate=st.sampled_from(RATES),
    sound_rate=st.sampled_from([8_000, 16_000, 22_050, 24_000, 48_000]),
    sizes=st.lists(st.integers(100, 9_000), min_size=1, max_size=5),
)
def test_frames_carry_the_sound_at_the_rate_asked_for(
    samples: int, rate: int, sound_rate: int, sizes: list[int]
) -> None:
    """As soon as their pictures can be rendered; at the rate that was pushed, the very samples that were pushed."""
    whole = np.random.default_rng(samples).uniform(-1, 1, samples).astype(np.float32)
    queue, speech, sounds, spans = SpeechQueue(), Speech(1, rate, LINE, sound_rate), [], []

    def show() -> None:
        while speech.available:
            speech.request(1, 0)
            frame, speech.shown = speech.shown, speech.requested
            taken = queue.take(speech.pushed(frame), speech, last=speech.finished)
            sounds.append(speech.sound(frame, taken.samples))
            spans.append(speech.span(frame))

    for piece in pieces(whole, sizes):
        queue.put(SpeechPart(piece, rate), speech)
        speech.push(piece)
        show()
    speech.end()
    show()
    assert not queue
    assert {len(sound) for sound in sounds} == {sound_rate // 25}
    heard = len(to_speech(whole, rate))
    assert spans == [(640 * frame, min(640 * frame + 640, heard)) for frame in range(LINE.frame_count(heard))]
    wanted = whole if rate == sound_rate else to_speech(whole, rate, to_rate=sound_rate)
    got = np.concatenate(sounds)
    rest = len(wanted) - len(got)
    assert rest <= 16  # what rounding and the filter's end leave after the last frame
    np.testing.assert_array_equal(got[: len(wanted)], wanted[: len(got)])
    assert not got[len(wanted) :].any()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 12_000)), min_size=1, max_size=6), st.integers(100, 5_000))
def test_silent_frames_are_those_that_hear_nothing(parts: list[tuple[bool, int]], piece: int) -> None:
    whole = np.concatenate([np.full(length, loud, np.float32) for loud, length in parts])
    speech = Speech(1, 16_000, LINE, 16_000)
    for part in pieces(whole, [piece]):
        speech.push(part)
    speech.end()
    for frame in range(speech.total):
        start, audio = LINE.slice(whole, frame, 1)
        if speech.silent(frame):
            assert start > 0 and not audio.any()
        elif start > 640 and not audio.any():  # it may miss one at an edge, never one in the middle of a silence
            assert whole[start - 640 : start + len(audio) + 640].any()


@pytest.mark.parametrize("loop", ["forward", "pingpong"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_footage_loops_as_the_servers_does(loop: str, count: int) -> None:
    avatar = Avatar("x", 1, 64, 48, count, loop)
    assert [looped(at, avatar) for at in range(40)] == [footage_index(at, count, loop) for at in range(40)]


@given(start=st.integers(0, 40), ahead=st.integers(1, 30), late=st.integers(0, 60))
def test_the_walk_never_jumps_and_comes_back_soon(start: int, ahead: int, late: int) -> None:
    walk, position, target = IdleWalk(), start, start + ahead
    for _ in range(late):
        after = walk.next(position, target, ready=False)
        assert abs(after - position) <= 1 and 0 <= after < target
        assert position < target - 1 or after >= target - 2
        position = after
    if late > ahead:
        assert position >= target - 1 - IdleWalk.DEPTH
    waited = 0
    while (after := walk.next(position, target, ready=True)) != target:
        assert after == position + 1
        position, waited = after, waited + 1
    assert waited <= max(IdleWalk.DEPTH, ahead)
