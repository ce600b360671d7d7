"""Pieces of speech without a position, as the monolithic API sends them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipsync_client.timeline import Request
from lipsync_mel import speech_request
from lipsync_mel.timeline import SAMPLES_AFTER, SAMPLES_BEFORE, samples_needed
from lipsync_server.gateway import speech_runs
from lipsync_server.gateway.speech_runs import SpeechRuns

FRAME = 640
SPEECH = np.random.default_rng(0).uniform(-1, 1, 400 * FRAME).astype(np.float32)


def check_accepted(made: Request) -> None:
    """The pipeline takes it, and no sample of it is of no use."""
    speech_request.parse(
        made.audio, made.audio_start, made.audio_end, made.first_frame, made.frame_count, made.footage_start
    )
    start, stop = samples_needed(made.first_frame, made.frame_count)
    assert made.audio_start <= start and made.audio_start + len(made.audio) == stop


@given(st.lists(st.integers(1, 32), min_size=1, max_size=8), st.integers(0, 1000))
def test_pieces_in_a_row_have_what_came_before_and_silence_after(counts: list[int], footage: int) -> None:
    runs, first = SpeechRuns(), 0
    for count in counts:
        made = runs.request("me", "demo", SPEECH[first * FRAME : (first + count) * FRAME], count, footage + first)
        check_accepted(made)
        end = (first + count) * FRAME
        heard = np.concatenate([SPEECH[max(0, first * FRAME - SAMPLES_BEFORE) : end], np.zeros(SAMPLES_AFTER - FRAME)])
        np.testing.assert_array_equal(made.audio, heard.astype(np.float32))
        assert (made.first_frame, made.frame_count, made.footage_start) == (first, count, footage + first)
        first += count


@given(st.lists(st.integers(1, 32), min_size=1, max_size=6), st.integers(8, 1000))
def test_pieces_that_begin_8_frames_earlier_have_their_whole_context(counts: list[int], footage: int) -> None:
    runs, at = SpeechRuns(), 8
    for number, count in enumerate(counts):
        audio = SPEECH[(at - 8) * FRAME : (at + count + 7) * FRAME]
        made = runs.request("me", "demo", audio, count, footage + at - 8)
        check_accepted(made)
        start = max(0, at * FRAME - SAMPLES_BEFORE) if number else 0
        stop = (at + count - 1) * FRAME + SAMPLES_AFTER
        heard = np.pad(SPEECH[start : (at + count + 7) * FRAME], (0, stop - (at + count + 7) * FRAME))
        np.testing.assert_array_equal(made.audio, heard)
        assert (made.audio_start, made.first_frame, made.footage_start) == (start, at, footage + at - 8)
        at += count


@pytest.mark.parametrize(("footage", "first"), [(0, 0), (3, 3), (8, 8), (100, 8)])
def test_at_the_beginning_of_the_footage_the_audio_begins_there_too(footage: int, first: int) -> None:
    made = SpeechRuns().request("me", "demo", SPEECH[: 19 * FRAME], 4, footage)
    assert (made.first_frame, made.audio_start) == (first, 0)


@given(st.integers(1, 50_000), st.integers(1, 32), st.integers(0, 100))
def test_any_length_of_audio_gives_a_request_that_is_taken(samples: int, count: int, footage: int) -> None:
    check_accepted(SpeechRuns().request("me", "demo", SPEECH[:samples], count, footage))


def test_too_little_audio_is_followed_by_zeros() -> None:
    made = SpeechRuns().request("me", "demo", SPEECH[:100], 4, 0)
    np.testing.assert_array_equal(made.audio[100:], 0)


def test_a_piece_that_is_sent_again_is_the_same_request() -> None:
    runs = SpeechRuns()
    runs.request("me", "demo", SPEECH[: 8 * FRAME], 8, 0)
    first, again = (runs.request("me", "demo", SPEECH[8 * FRAME : 12 * FRAME], 4, 8) for _ in range(2))
    np.testing.assert_array_equal(first.audio, again.audio)
    assert first.first_frame == again.first_frame == 8
    assert runs.request("me", "demo", SPEECH[: 4 * FRAME], 4, 12).first_frame == 12  # and goes on


def test_other_callers_avatars_and_places_begin_anew() -> None:
    runs = SpeechRuns()
    runs.request("me", "demo", SPEECH[: 8 * FRAME], 8, 0)
    for caller, avatar, footage in (("you", "demo", 8), ("me", "anna", 8), ("me", "demo", 9)):
        assert runs.request(caller, avatar, SPEECH[: 4 * FRAME], 4, footage).first_frame == 0


def test_no_more_speeches_are_remembered_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_runs, "MAX_RUNS", 3)
    runs = SpeechRuns()
    for caller in "abcd":
        runs.request(caller, "demo", SPEECH[:FRAME], 1, 0)
    assert runs.request("a", "demo", SPEECH[:FRAME], 1, 1).first_frame == 0  # forgotten
    assert runs.request("d", "demo", SPEECH[:FRAME], 1, 1).first_frame == 1
