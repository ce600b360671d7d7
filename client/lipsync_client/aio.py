"""The same client for asyncio."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException

from lipsync_client import wire
from lipsync_client.answers import Avatar, Frame, Result
from lipsync_client.connection import SESSION_HEADER, Connection
from lipsync_client.errors import AvatarNotFound, InvalidRequest, LipsyncError
from lipsync_client.retry import Attempts
from lipsync_client.timeline import Request, Timeline

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same methods, options and errors. One event loop may use it.

    >>> async with AsyncClient() as client:
    ...     async for frame in client.render(speech):
    ...         await show(frame.jpeg)

    Args, Raises: as for `Client`.
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
        self._connected: InferenceServerClient | None = None

    @property
    def _grpc(self) -> InferenceServerClient:
        # Made at the first use, because gRPC binds a channel to the event loop that runs when it is made.
        if self._closed:
            raise LipsyncError("this client is closed")
        if self._connected is None:
            self._connected = self._connection.connect_async()
        return self._connected

    async def timeline(self) -> Timeline:
        """The server's clock and limits. Asked once, then remembered."""
        if self._timeline is None:
            self._timeline = Timeline.from_parameters(await self._parameters(wire.TIMELINE_MODEL, None))
        return self._timeline

    async def avatar(self, avatar: str = wire.SHIPPED_AVATAR, *, timeout: float | None = None) -> Avatar:
        """As `Client.avatar`."""
        return wire.avatar_from_parameters(await self._parameters(wire.lipsync_of(avatar), avatar, timeout))

    async def render(
        self,
        speech: NDArray[np.float32],
        *,
        avatar: str = wire.SHIPPED_AVATAR,
        first_chunk: int = 4,
        chunk: int = 25,
        in_flight: int = 3,
        footage_start: int = 0,
    ) -> AsyncGenerator[Frame, None]:
        """As `Client.render`. To stop early use `contextlib.aclosing` (or `aclose`); it cancels what is in flight."""
        speech = wire.check_speech(speech)
        if in_flight < 1:
            raise InvalidRequest(f"in_flight is {in_flight}; it must be at least 1")
        timeline = await _repeated(self.timeline)
        timeline.check_chunks(first_chunk, chunk)
        requests = timeline.cut(speech, first_chunk=first_chunk, chunk=chunk, footage_start=footage_start)
        window: deque[tuple[Request, asyncio.Task[Result]]] = deque()

        def send(some: Iterator[Request]) -> None:
            window.extend((request, asyncio.create_task(self._send(request, avatar))) for request in some)

        try:
            send(itertools.islice(requests, in_flight))
            while window:
                request, task = window[0]
                result = await task
                window.popleft()
                send(itertools.islice(requests, 1))
                for frame in wire.frames_of(result, request, timeline):
                    yield frame
        finally:
            for _, task in window:
                task.cancel()
            await asyncio.gather(*(task for _, task in window), return_exceptions=True)

    async def infer(
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
        """One request, as `Client.infer`. Cancelling the task cancels the request."""
        request = Request(np.asarray(audio), audio_start, audio_end, first_frame, frame_count, footage_start, patches)
        return await self._send(request, avatar)

    async def close(self) -> None:
        """End the connection. Requests in flight are cancelled."""
        self._closed = True
        if self._connected is not None:
            await self._connected.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def attempt(
        self, request: Request, avatar: str, *, timeout: float | None = None, session: str | None = None
    ) -> Result:
        """One request, sent once. Raises LipsyncError.

        Args:
            timeout: seconds, if not the client's own.
            session: the id of the live session that it belongs to.
        """
        return await self._infer(wire.ensemble_of(avatar), wire.tensors(request), avatar, timeout, session)

    async def footage(
        self,
        key: int,
        first: int,
        count: int,
        avatar: str,
        *,
        timeout: float | None = None,
        session: str | None = None,
    ) -> Result:
        """Plain frames of an avatar's footage from a position of the loop on, asked for once. No network runs for them.

        Args:
            key: the avatar's (`Avatar.key`).
            first, count: which frames.
            avatar: its name, for messages.
            timeout: seconds, if not the client's own.
            session: as for `attempt`.

        Raises:
            InvalidRequest: no avatar has that key (any more).
            LipsyncError: as for every request.
        """
        tensors = wire.footage_tensors(key, first, count)
        return await self._infer(wire.COMPOSITE_MODEL, tensors, avatar, timeout, session)

    async def gives_patches(self, avatar: str) -> bool:
        """Whether requests for an avatar may ask for patches; one that was packed by an older version has none."""
        config = await self._config(wire.ensemble_of(avatar), avatar, None)
        return any(one.name == "PATCHES" for one in config.input)

    async def _send(self, request: Request, avatar: str) -> Result:
        return await _repeated(lambda: self.attempt(request, avatar))

    async def _infer(
        self, model: str, tensors: list[InferInput], avatar: str, timeout: float | None, session: str | None
    ) -> Result:
        headers = {SESSION_HEADER: session} if session else None
        try:
            answer = await self._grpc.infer(model, tensors, headers=headers, client_timeout=timeout or self._timeout)
        except InferenceServerException as error:
            raise await self._failure(error, avatar) from None
        return wire.result_from(answer)

    async def _parameters(self, model: str, avatar: str | None, timeout: float | None = None) -> dict[str, str]:
        return wire.parameters_of(await self._config(model, avatar, timeout))

    async def _config(self, model: str, avatar: str | None, timeout: float | None) -> ModelConfig:
        try:
            answer = await self._grpc.get_model_config(model, client_timeout=timeout or self._timeout)
        except InferenceServerException as error:
            raise await self._failure(error, avatar) from None
        return answer.config

    async def _failure(self, error: InferenceServerException, avatar: str | None) -> LipsyncError:
        """Our error for one of Triton's. If it is that the avatar is missing, the server is asked why."""
        failure = wire.translate(error, url=self.url, avatar=avatar)
        if avatar is None or not isinstance(failure, AvatarNotFound):
            return failure
        try:
            server = await self._grpc.is_server_ready(client_timeout=self._timeout)
            there = server and await self._grpc.is_model_ready(wire.ensemble_of(avatar), client_timeout=self._timeout)
        except InferenceServerException:
            server = there = False
        return wire.explained(failure, self.url, avatar, server_ready=server, avatar_ready=there)


async def _repeated(send: Callable[[], Awaitable[T]]) -> T:
    """Send a request, and send it again where that may help."""
    attempts = Attempts()
    while True:
        try:
            return await send()
        except LipsyncError as failure:
            delay = attempts.delay_after(failure)
        await asyncio.sleep(delay)
