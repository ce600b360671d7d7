"""Cutting a speech into requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipsync_client import InvalidRequest, ServerError, Timeline
from lipsync_mel import timeline as server_timeline

TIMELINE = Timeline(sample_rate=1000, fps=25, samples_before=91, samples_after=110, max_frames=32, max_samples=100_000)
LENGTHS = st.integers(0, 5000)
CHUNKS = st.integers(1, 32)


def speech_of(samples: int) -> np.ndarray:
    return np.arange(1, samples + 1, dtype=np.float32)  # no zero, so that padding shows


@given(LENGTHS, CHUNKS, CHUNKS)
def test_requests_cover_each_frame_once_in_order(samples: int, first_chunk: int, chunk: int) -> None:
    requests = list(TIMELINE.cut(speech_of(samples), first_chunk=first_chunk, chunk=chunk))
    frames = [r.first_frame + k for r in requests for k in range(r.frame_count or 0)]
    assert frames == list(range(-(-samples // 40)))
    assert all(1 <= (r.frame_count or 0) <= (chunk if k else first_chunk) for k, r in enumerate(requests))


@given(LENGTHS, CHUNKS, CHUNKS)
def test_slices_hold_the_context_of_their_frames_and_no_more(samples: int, first_chunk: int, chunk: int) -> None:
    speech = speech_of(samples)
    padded = np.concatenate([speech, np.zeros(TIMELINE.samples_after, np.float32)])
    for request in TIMELINE.cut(speech, first_chunk=first_chunk, chunk=chunk):
        first, last = request.first_frame, request.first_frame + request.frame_count - 1
        assert request.audio_start == max(0, 40 * first - 91)
        assert np.array_equal(request.audio, padded[request.audio_start : 40 * last + 110])
        assert request.audio_start + len(request.audio) == 40 * last + 110
        assert request.audio_end is False


def test_footage_runs_on_over_requests() -> None:
    requests = list(TIMELINE.cut(speech_of(1000), first_chunk=4, chunk=10, footage_start=7))
    assert [(r.first_frame, r.footage_start) for r in requests] == [(0, 7), (4, 11), (14, 21), (24, 31)]


def test_timeline_comes_from_the_published_strings() -> None:
    published = {name: str(value) for name, value in vars(TIMELINE).items()}
    assert Timeline.from_parameters({**published, "other": "x"}) == TIMELINE


@pytest.mark.parametrize(
    "change", [{"fps": None}, {"fps": "25.0"}, {"fps": "0"}, {"fps": "24"}, {"max_frames": "many"}], ids=str
)
def test_unusable_timeline_is_refused(change: dict[str, str | None]) -> None:
    published = {name: str(value) for name, value in vars(TIMELINE).items()} | change
    with pytest.raises(ServerError):
        Timeline.from_parameters({k: v for k, v in published.items() if v is not None})


@pytest.mark.parametrize(("first_chunk", "chunk", "named"), [(0, 25, "first_chunk"), (4, 33, "chunk is 33")])
def test_chunks_outside_the_servers_limits_are_refused(first_chunk: int, chunk: int, named: str) -> None:
    TIMELINE.check_chunks(1, 32)
    with pytest.raises(InvalidRequest, match=f"{named}.*1 to 32"):
        TIMELINE.check_chunks(first_chunk, chunk)


@given(LENGTHS, CHUNKS)
def test_the_frames_within_a_beginning_are_those_whose_spans_it_holds(samples: int, count: int) -> None:
    number = TIMELINE.frames_within(samples)
    assert all(TIMELINE.span(first, count)[1] <= samples for first in range(max(0, number - count + 1)))
    assert TIMELINE.span(number, 1)[1] > samples


def test_the_span_is_that_of_the_servers_first_stage() -> None:
    line = Timeline.from_parameters({name: str(value) for name, value in server_timeline.PUBLISHED.items()})
    for first, count in [(0, 1), (0, 32), (9, 1), (10, 4), (1000, 32)]:
        assert line.span(first, count) == server_timeline.samples_needed(first, count)
