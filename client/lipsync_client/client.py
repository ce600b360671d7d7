"""The client: speech in, frames out."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout  # the builtin one only since Python 3.11
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferResult
from tritonclient.utils import InferenceServerException

from lipsync_client import wire
from lipsync_client.answers import Avatar, Frame, Result
from lipsync_client.connection import Connection
from lipsync_client.errors import AvatarNotFound, InvalidRequest, LipsyncError, Timeout
from lipsync_client.retry import Attempts
from lipsync_client.timeline import Request, Timeline

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """A connection to a lip-sync server. Threads may share it. Use it as a context manager, or call `close`.

    >>> with Client() as client:
    ...     for frame in client.render(read_audio("speech.wav")):
    ...         show(frame.jpeg, at=frame.time_s)

    Args:
        url: the server's gRPC endpoint: `host:port`, or `grpcs://host[:port]` with TLS.
        timeout: seconds that one request may take; a request is sent again after failures that may pass.
        token: bearer token, sent with every request; unencrypted only to this machine.
        headers: further ones, sent with every request.

    Raises:
        InvalidRequest: the address, the token or a header cannot be used.
        LipsyncError: the token would be sent unencrypted to another machine.
    """

    def __init__(
        self,
        url: str = wire.DEFAULT_URL,
        *,
        timeout: float = 30.0,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self._timeout = timeout
        self._closed = False
        self._timeline: Timeline | None = None
        self._connection = Connection(url, token=token, headers=headers)
        self._grpc = self._connection.connect()
        # Requests are started in a thread of their own, where no signal handler runs: Ctrl-C at the wrong moment of a
        # start leaves gRPC with a call that nothing will ever end, and closing the connection then waits forever.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="lipsync-client")

    def timeline(self) -> Timeline:
        """The server's clock and limits. Asked once, then remembered."""
        if self._timeline is None:
            self._timeline = Timeline.from_parameters(self._parameters(wire.TIMELINE_MODEL, None))
        return self._timeline

    def avatar(self, avatar: str = wire.SHIPPED_AVATAR, *, timeout: float | None = None) -> Avatar:
        """Facts of an avatar. A gateway loads the avatar first, if it is not loaded.

        Args:
            timeout: seconds that this may take, if not the client's own. A load takes seconds, on a GPU minutes.

        Raises:
            AvatarNotFound: there is no such avatar, or it is not loaded and nothing loads it on demand.
            LoadFailed: it cannot be loaded.
            Overloaded: every avatar that the server may have loaded is in use.
        """
        return wire.avatar_from_parameters(self._parameters(wire.lipsync_of(avatar), avatar, timeout))

    def render(
        self,
        speech: NDArray[np.float32],
        *,
        avatar: str = wire.SHIPPED_AVATAR,
        first_chunk: int = 4,
        chunk: int = 25,
        in_flight: int = 3,
        footage_start: int = 0,
    ) -> Generator[Frame, None, None]:
        """Render a whole speech: ceil(seconds * fps) frames, in order, each as soon as it has arrived.

        The speech is cut into requests, a few of which are in flight at any time. They are cancelled if the iterator
        is closed early (by `close`, or by dropping it). An empty speech has no frames.

        Args:
            speech: mono samples at the timeline's rate (16 kHz), in [-1, 1], shape = (n,); `read_audio` and
                `to_speech` make it.
            avatar: whose face.
            first_chunk: frames of the first request; fewer show the first picture sooner.
            chunk: frames of each later request; more make better use of the server.
            in_flight: requests in flight at once.
            footage_start: position in the avatar's footage of the first frame.

        Raises:
            InvalidRequest: the speech or an option is not usable.
            AvatarNotFound: no such avatar is loaded.
            ServerUnavailable, Timeout, ServerError: also after sending again where that may help.
        """
        speech = wire.check_speech(speech)
        if in_flight < 1:
            raise InvalidRequest(f"in_flight is {in_flight}; it must be at least 1")
        timeline = _repeated(self.timeline)
        timeline.check_chunks(first_chunk, chunk)
        requests = timeline.cut(speech, first_chunk=first_chunk, chunk=chunk, footage_start=footage_start)
        return self._stream(requests, avatar, in_flight, timeline)

    def infer(
        self,
        audio: NDArray[np.float32],
        *,
        avatar: str = wire.SHIPPED_AVATAR,
        audio_start: int = 0,
        audio_end: bool = True,
        first_frame: int = 0,
        frame_count: int | None = None,
        footage_start: int | None = None,
        patches: bool = False,
    ) -> Result:
        """One request, as the server's contract has it; the fields are described at `Request`. For whole speeches use
        `render`; this is for callers who cut the speech themselves.
        """
        request = Request(np.asarray(audio), audio_start, audio_end, first_frame, frame_count, footage_start, patches)
        call = _Call(self, request, avatar)
        try:
            return call.result()
        finally:
            call.cancel()

    def close(self) -> None:
        """End the connection. Requests in flight are cancelled."""
        self._closed = True
        with suppress(LipsyncError):
            self._connection.check_process()  # in a child of `os.fork` there is nothing to close
            self._starter.shutdown()
            self._grpc.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stream(
        self, requests: Iterator[Request], avatar: str, in_flight: int, timeline: Timeline
    ) -> Generator[Frame, None, None]:
        window: deque[_Call] = deque()

        def send(some: Iterator[Request]) -> None:
            for request in some:
                window.append(_Call(self, request, avatar))

        try:
            send(itertools.islice(requests, in_flight))
            while window:
                call = window[0]
                result = call.result()
                window.popleft()
                send(itertools.islice(requests, 1))
                yield from wire.frames_of(result, call.request, timeline)
        finally:
            for call in window:
                call.cancel()

    def _parameters(self, model: str, avatar: str | None, timeout: float | None = None) -> dict[str, str]:
        self._check_open()
        try:
            answer = self._grpc.get_model_config(model, client_timeout=timeout or self._timeout)
        except InferenceServerException as error:
            raise self._failure(error, avatar) from None
        return wire.parameters_of(answer.config)

    def _failure(self, error: InferenceServerException, avatar: str | None) -> LipsyncError:
        """As `AsyncClient._failure`."""
        failure = wire.translate(error, url=self.url, avatar=avatar)
        if avatar is None or not isinstance(failure, AvatarNotFound):
            return failure
        try:
            server = self._grpc.is_server_ready(client_timeout=self._timeout)
            there = server and self._grpc.is_model_ready(wire.ensemble_of(avatar), client_timeout=self._timeout)
        except InferenceServerException:
            server = there = False
        return wire.explained(failure, self.url, avatar, server_ready=server, avatar_ready=there)

    def _check_open(self) -> None:
        if self._closed:
            raise LipsyncError("this client is closed")
        self._connection.check_process()


class _Call:
    """A request in flight, which is sent again where that may help."""

    def __init__(self, client: Client, request: Request, avatar: str) -> None:
        self.request = request
        self._client = client
        self._avatar = avatar
        self._send()

    def _send(self) -> None:
        client = self._client
        client._check_open()
        answer: Future[InferResult] = Future()

        def done(result: InferResult | None, error: InferenceServerException | None) -> None:
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        self._answer = answer
        self._context = client._starter.submit(
            client._grpc.async_infer,
            wire.ensemble_of(self._avatar),
            wire.tensors(self.request),
            done,
            client_timeout=client._timeout,
        ).result(client._timeout)

    def result(self) -> Result:
        """Wait for the answer."""
        return _repeated(self._wait, self._send)

    def _wait(self) -> Result:
        client = self._client
        try:
            # gRPC keeps the deadline; the second wait only guards against a callback that never comes.
            return wire.result_from(self._answer.result(client._timeout + 5))
        except InferenceServerException as error:
            client._check_open()
            raise client._failure(error, self._avatar) from None
        except FutureTimeout:
            raise Timeout(f"The server at {client.url} did not answer within {client._timeout:g} s.") from None

    def cancel(self) -> None:
        self._context.cancel()


def _repeated(ask: Callable[[], T], before_again: Callable[[], object] = lambda: None) -> T:
    """Ask, and ask again where that may help."""
    attempts = Attempts()
    while True:
        try:
            return ask()
        except LipsyncError as failure:
            delay = attempts.delay_after(failure)
        time.sleep(delay)
        before_again()
