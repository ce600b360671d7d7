"""Both clients against a server that is late, out of order, overloaded, wrong or gone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, closing
from typing import Any

import grpc
import numpy as np
import pytest
from client_fake import TIMELINE, WAIT_S, FakeServer, picture, running

from lipsync_client import (
    AsyncClient,
    AvatarNotFound,
    Client,
    Frame,
    InvalidRequest,
    LipsyncError,
    Overloaded,
    Result,
    ServerError,
    ServerUnavailable,
    Timeout,
    retry,
)
from lipsync_mel import refusals

SPEECH = np.random.default_rng(0).uniform(-1, 1, 1990).astype(np.float32)  # 50 frames, the last one not full
PICTURES = [picture(SPEECH, frame) for frame in range(50)]


class Sync:
    """Drive `Client`; `Async` has the same methods for `AsyncClient`."""

    @staticmethod
    def render(url: str, speech: np.ndarray = SPEECH, **options: Any) -> list[Frame]:
        with Client(url, timeout=WAIT_S) as client:
            return list(client.render(speech, **options))

    @staticmethod
    def render_two(url: str, before_close: Callable[[], None], **options: Any) -> None:
        """Two frames, then no more; the client stays open for a moment."""
        with Client(url, timeout=WAIT_S) as client:
            with closing(client.render(SPEECH, **options)) as frames:
                next(frames)
                next(frames)
            before_close()

    @staticmethod
    def ask(url: str, method: str, *values: Any, timeout: float = WAIT_S, **options: Any) -> Any:
        with Client(url, timeout=timeout) as client:
            return getattr(client, method)(*values, **options)


class Async:
    @staticmethod
    def run(main: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(asyncio.wait_for(main, 3 * WAIT_S))

    @classmethod
    def render(cls, url: str, speech: np.ndarray = SPEECH, **options: Any) -> list[Frame]:
        async def main() -> list[Frame]:
            async with AsyncClient(url, timeout=WAIT_S) as client:
                return [frame async for frame in client.render(speech, **options)]

        return cls.run(main())

    @classmethod
    def render_two(cls, url: str, before_close: Callable[[], None], **options: Any) -> None:
        async def main() -> None:
            async with AsyncClient(url, timeout=WAIT_S) as client:
                async with aclosing(client.render(SPEECH, **options)) as frames:
                    await anext(frames)
                    await anext(frames)
                await asyncio.to_thread(before_close)

        cls.run(main())

    @classmethod
    def ask(cls, url: str, method: str, *values: Any, timeout: float = WAIT_S, **options: Any) -> Any:
        async def main() -> Any:
            async with AsyncClient(url, timeout=timeout) as client:
                return await getattr(client, method)(*values, **options)

        return cls.run(main())


@pytest.fixture(params=[Sync, Async])
def kind(request: pytest.FixtureRequest) -> type[Sync] | type[Async]:
    return request.param


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with running(FakeServer()) as server:
        yield server


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending again at once; how often stays as it is."""
    monkeypatch.setattr(retry, "FIRST_DELAY_S", 1e-6)


@pytest.mark.parametrize(("first_chunk", "chunk", "in_flight"), [(8, 8, 1), (1, 1, 4), (4, 7, 2), (3, 8, 9)])
def test_chunked_equals_whole(kind, fake: FakeServer, first_chunk: int, chunk: int, in_flight: int) -> None:
    frames = kind.render(fake.url, chunk=chunk, first_chunk=first_chunk, in_flight=in_flight)
    assert [frame.jpeg for frame in frames] == PICTURES
    assert [frame.index for frame in frames] == list(range(50))
    assert [frame.time_s for frame in frames] == [index / 25 for index in range(50)]
    assert frames[0].timings_ms == (1, 2, 3, 6)


def test_frames_come_in_order_when_answers_do_not(kind, fake: FakeServer) -> None:
    answered: list[int] = []
    third = threading.Event()

    def late_first(number: int, seen, context) -> None:
        if seen.first == 0:
            assert third.wait(WAIT_S)
        answered.append(seen.first)
        if len(answered) == 2:
            third.set()

    fake.on_request = late_first
    frames = kind.render(fake.url, chunk=8, in_flight=3)
    assert answered[0] != 0
    assert [frame.jpeg for frame in frames] == PICTURES


def test_requests_on_the_way_are_bounded(kind, fake: FakeServer) -> None:
    third = threading.Event()

    def linger(number: int, seen, context) -> None:
        if fake.most_at_once > 2:
            third.set()
        third.wait(0.1)  # time for one too many to arrive

    fake.on_request = linger
    kind.render(fake.url, SPEECH[:800], chunk=2, in_flight=2)
    assert fake.most_at_once == 2


def test_closing_early_cancels_what_is_on_the_way(kind, fake: FakeServer) -> None:
    def hang_after_first(number: int, seen, context) -> None:
        if seen.first:
            seen.cancelled.wait(WAIT_S)
        else:  # the others are sent at the same time: let one of them arrive before the caller may close
            deadline = time.monotonic() + WAIT_S
            while len(fake.seen) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)

    def check() -> None:
        assert all(seen.cancelled.wait(5) for seen in fake.seen if seen.first)

    fake.on_request = hang_after_first
    kind.render_two(fake.url, check, chunk=8, in_flight=3)
    assert 2 <= len(fake.seen) <= 4


def test_footage_and_avatar_are_passed_on(kind, fake: FakeServer) -> None:
    kind.render(fake.url, chunk=8, avatar="anna", footage_start=100)
    assert {seen.model for seen in fake.seen} == {"anna"}
    assert all(seen.footage_start == 100 + seen.first for seen in fake.seen)


def test_empty_speech_has_no_frames(kind, fake: FakeServer) -> None:
    assert kind.render(fake.url, np.zeros(0, np.float32), chunk=8) == []
    assert not fake.seen


def test_infer_is_one_request(kind, fake: FakeServer) -> None:
    result: Result = kind.ask(fake.url, "infer", SPEECH, first_frame=2, frame_count=3, footage_start=5)
    assert result.frames == tuple(PICTURES[2:5])
    assert (result.frame_index, result.timings_ms.total, len(fake.seen)) == ((2, 3, 4), 6, 1)


def test_facts_come_from_the_server(kind, fake: FakeServer) -> None:
    assert kind.ask(fake.url, "timeline") == TIMELINE
    avatar = kind.ask(fake.url, "avatar", "demo")
    assert (avatar.id, avatar.frame_width, avatar.frame_height, avatar.footage_frames) == ("demo", 64, 48, 10)
    with pytest.raises(AvatarNotFound, match=r"'nobody'.*`lipsync avatars`"):
        kind.ask(fake.url, "avatar", "nobody")


def failing(times: int, code: grpc.StatusCode, text: str):
    """Fail each request's first attempts."""
    attempts: dict[int, int] = {}

    def on_request(number: int, seen, context) -> None:
        attempts[seen.first] = attempts.get(seen.first, 0) + 1
        if attempts[seen.first] <= times:
            context.abort(code, text)

    return on_request, attempts


@pytest.mark.parametrize("text", ["Socket closed", refusals.coded(refusals.OVERLOADED, "64 requests are in flight")])
def test_what_may_pass_is_sent_again(kind, fake: FakeServer, no_delay: None, text: str) -> None:
    fake.on_request, attempts = failing(2, grpc.StatusCode.UNAVAILABLE, text)
    assert [frame.jpeg for frame in kind.render(fake.url, chunk=8)] == PICTURES
    assert set(attempts.values()) == {3}


def test_a_rendering_outlives_a_server_that_ends_before_its_first_request(
    kind, fake: FakeServer, no_delay: None
) -> None:
    fake.absent = 2
    assert [frame.jpeg for frame in kind.render(fake.url, chunk=8)] == PICTURES


def test_a_stopping_server_is_not_taken_for_a_missing_avatar(kind, fake: FakeServer, no_delay: None) -> None:
    def stop_for_two(number: int, seen, context) -> None:
        fake.ready = number >= 2
        if not fake.ready:
            context.abort(grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'x' has no available versions")

    fake.on_request = stop_for_two
    assert [frame.jpeg for frame in kind.render(fake.url, chunk=8, in_flight=1)] == PICTURES
    fake.on_request, _ = failing(99, grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'x' is not found")
    fake.ready = False
    with pytest.raises(ServerUnavailable, match="is stopping"):
        kind.render(fake.url, chunk=8)


def test_a_server_that_ends_while_it_is_asked_why_is_stopping(kind, fake: FakeServer, no_delay: None) -> None:
    fake.on_request, attempts = failing(2, grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'x' is not found")
    fake.loaded = None  # it answers that it is ready, and no more
    assert [frame.jpeg for frame in kind.render(fake.url, chunk=8, in_flight=1)] == PICTURES
    assert set(attempts.values()) == {3}


def test_in_the_moment_of_a_replacement_a_request_is_sent_again(kind, fake: FakeServer, no_delay: None) -> None:
    fake.on_request, attempts = failing(1, grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'x' is not found")
    assert [frame.jpeg for frame in kind.render(fake.url, chunk=8)] == PICTURES
    assert set(attempts.values()) == {2}


@pytest.mark.parametrize(
    ("code", "text", "error", "attempts"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "in ensemble 'lipsync_ensemble', FRAME_COUNT is 99", InvalidRequest, 1),
        (grpc.StatusCode.INTERNAL, "stage died", ServerError, 1),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'x' is not found", AvatarNotFound, 1),
        (grpc.StatusCode.UNAVAILABLE, "Request for unknown model: 'x' has no available versions", AvatarNotFound, 1),
        (grpc.StatusCode.UNAVAILABLE, refusals.coded(refusals.OVERLOADED, "64 requests are in flight"), Overloaded, 8),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", ServerUnavailable, 8),
    ],
)
def test_errors_are_typed_and_sent_again_only_where_it_helps(
    kind, fake: FakeServer, no_delay: None, code: grpc.StatusCode, text: str, error: type[LipsyncError], attempts: int
) -> None:
    fake.on_request, count = failing(99, code, text)
    if error is AvatarNotFound:
        fake.loaded.clear()
    with pytest.raises(LipsyncError) as caught:
        kind.render(fake.url, chunk=8)
    assert type(caught.value) is error
    assert count[0] == attempts
    assert "in ensemble" not in str(caught.value)


def test_a_late_answer_is_a_timeout_after_one_more_try(kind, fake: FakeServer, no_delay: None) -> None:
    fake.on_request = lambda number, seen, context: seen.cancelled.wait(WAIT_S)
    with pytest.raises(Timeout):  # of the request itself: `infer` asks for nothing before
        kind.ask(fake.url, "infer", SPEECH[:40], frame_count=1, footage_start=0, timeout=1.0)
    assert len(fake.seen) == 2


def test_a_server_that_comes_back_is_used_again(kind) -> None:
    first, second = FakeServer(), FakeServer()
    up, reached, finished = threading.Event(), threading.Event(), threading.Event()

    def hang_after_first(number: int, seen, context) -> None:
        if seen.first:
            reached.set()
            seen.cancelled.wait(WAIT_S)

    def serve() -> None:
        with running(first):
            up.set()
            reached.wait(WAIT_S)
        with running(second, int(first.url.rpartition(":")[2])):
            finished.wait(WAIT_S)

    first.on_request = hang_after_first
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert up.wait(WAIT_S)
        frames = kind.render(first.url, chunk=8)
    finally:
        finished.set()
        thread.join(WAIT_S)
    assert [frame.jpeg for frame in frames] == PICTURES
    assert second.seen


def test_nobody_there_is_said_plainly(kind, no_delay: None) -> None:
    with running(FakeServer()) as gone:
        url = gone.url
    with pytest.raises(ServerUnavailable, match=f"{url}.*lipsync serve"):
        kind.render(url)


@pytest.mark.parametrize(
    ("speech", "says"),
    [
        (np.array([0, 0.5, np.nan], np.float32), "sample 2 is nan"),
        (np.zeros(100, np.int16), "int16.*to_speech"),
        (np.zeros((100, 2), np.float32), r"\(100, 2\)"),
        (np.full(100, 3000, np.float32), "reaches 3000.*to_speech"),
    ],
)
def test_unusable_speech_is_refused_before_sending(kind, fake: FakeServer, speech: np.ndarray, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        kind.render(fake.url, speech, chunk=8)
    assert not fake.seen


def test_wrong_frames_are_not_passed_on(kind, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fake._answer
    monkeypatch.setattr(fake, "_answer", lambda values, first, count: real(values, first, count - 1))
    with pytest.raises(ServerError, match="instead of"):
        kind.render(fake.url, chunk=8)


def test_a_closed_client_says_so(fake: FakeServer) -> None:
    client = Client(fake.url)
    client.close()
    with pytest.raises(LipsyncError, match="closed"):
        client.infer(SPEECH, frame_count=1)


def test_sync_options_are_checked_at_the_call(fake: FakeServer) -> None:
    with Client(fake.url) as client:
        with pytest.raises(InvalidRequest, match="in_flight is 0"):
            client.render(SPEECH, chunk=8, in_flight=0)
        with pytest.raises(InvalidRequest, match=r"chunk is 25.*1 to 8"):
            client.render(SPEECH)
