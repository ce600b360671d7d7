"""One Triton behind the gateway: its calls, and what is known of its state."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import numpy as np

from lipsync_client.connection import MANAGER_CHANNEL_ARGS, NO_PROXY
from lipsync_server.gateway.messages import encoded
from lipsync_server.gateway.observer import upstream_headers
from lipsync_server.gateway.tensors import request_of

__all__ = ["Upstream", "UpstreamError", "happens", "probe_request"]

SERVICE = "inference.GRPCInferenceService"
OPTIONS = [*MANAGER_CHANNEL_ARGS, NO_PROXY]
LOAD = "RepositoryModelLoad"
YOUNG_S = 0.1  # Triton 2.51 may crash when calls are cancelled just as they begin
Metadata = Sequence[tuple[str, str]]


class UpstreamError(Exception):
    """A call that an upstream did not answer, or answered with a failure.

    Attributes:
        code: the gRPC status.
        sentence: its text.
    """

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class Upstream:
    """A connection to a Triton. For the event loop that runs when it is made.

    Args:
        address: host:port of its gRPC endpoint.
        now: monotonic seconds.

    Attributes:
        ready: it has made a frame, and nothing has failed since.
        last_frame: when it made its last frame.
        last_probe: when it was last asked for one, only to see whether it works.
        trouble: why it is not ready.
        hung_since: when it was first asked for a frame in vain, because it or a stage does not answer; None: they do.
        last_load: when a model was last being loaded by a call here.
        suspect: set when a call has failed or the connection has ended, so that it is probed at once.
        probed: set when the probe that runs, or else the next, has ended; then there is a new one.
    """

    def __init__(self, address: str, now: Callable[[], float]) -> None:
        self.address = address
        self.ready = False
        self.last_frame = self.last_probe = -math.inf
        self.trouble = "not asked yet"
        self.hung_since: float | None = None
        self._last_load = -math.inf
        self.suspect = asyncio.Event()
        self.probed = asyncio.Event()
        self._now = now
        key = os.environ.get("LIPSYNC_INFERENCE_KEY")  # set by `lipsync serve`, whose Triton answers its gateway alone
        self._inference_key = [("triton-grpc-protocol-lipsync-inference", key)] if key else []
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._methods: dict[str, Any] = {}
        self._running: dict[asyncio.Task[bytes], tuple[str, Any]] = {}

    @property
    def open(self) -> int:
        """Calls that it has not answered yet."""
        return len(self._running)

    @property
    def last_load(self) -> float:
        running = any(method == LOAD for method, _ in self._running.values())
        return self._now() if running else self._last_load

    async def call(self, method: str, data: bytes, timeout: float, metadata: Metadata = ()) -> bytes:
        """One call of its inference service, bytes in and bytes out.

        Cancelling the caller cancels the call, when it is `YOUNG_S` old.

        Raises:
            UpstreamError: as the upstream's status says.
        """
        if method not in self._methods:
            self._methods[method] = self._channel.unary_unary(f"/{SERVICE}/{method}")
        began = self._now()
        if method == "ModelInfer":
            metadata = (*metadata, *self._inference_key)
        call = self._methods[method](data, timeout=timeout, metadata=(*metadata, *upstream_headers()))
        task = asyncio.create_task(self._answer(call))
        self._running[task] = method, call
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                delay = max(0.0, YOUNG_S - (self._now() - began))
                asyncio.get_running_loop().call_later(delay, call.cancel)
            raise
        finally:
            del task  # whose exception has this frame, and so the request: a circle

    async def watch_connection(self) -> None:
        """Suspect it whenever its connection ends, which tells sooner than the next probe that it has ended."""
        state = self._channel.get_state()
        while True:
            await self._channel.wait_for_state_change(state)
            was, state = state, self._channel.get_state()
            if was is grpc.ChannelConnectivity.READY:
                self.suspect.set()

    def made_a_frame(self) -> None:
        """A frame has come: it works."""
        self.last_frame = self._now()
        self.ready = True
        self.trouble = ""
        self.hung_since = None

    def failed(self, trouble: str, *, hung_since: float | None = None, give_up: bool = False) -> None:
        """It does not work.

        Args:
            trouble: why.
            hung_since: it was asked then, and it or a stage has not answered; None: it has another trouble.
            give_up: nor will it answer, so inference that waits for it is tried elsewhere.
        """
        self.ready = False
        self.trouble = trouble
        self.hung_since = None if hung_since is None else min(hung_since, self.hung_since or math.inf)
        if give_up:
            for method, call in self._running.values():
                if method == "ModelInfer":  # a load may make a server slow, and is no reason to end the load
                    call.cancel()

    async def close(self) -> None:
        """End the connection and every call on it."""
        await self._channel.close()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[bytes]) -> None:
        method, _ = self._running.pop(task)
        if method == LOAD:
            self._last_load = self._now()
        if not task.cancelled():
            task.exception()  # its caller may have gone

    async def _answer(self, call: Any) -> bytes:
        try:
            answer: bytes = await call
        except grpc.aio.AioRpcError as error:
            raise UpstreamError(error.code(), error.details() or "no reason given") from None
        except (asyncio.CancelledError, grpc.aio.UsageError):  # given up, or the channel was closed
            sentence = f"the server at {self.address} was given up: {self.trouble}"
            raise UpstreamError(grpc.StatusCode.UNAVAILABLE, sentence) from None
        return answer


async def happens(event: asyncio.Event, seconds: float) -> bool:
    """Whether an event comes in time.

    `asyncio.wait_for` may lose a cancellation that comes together with the event, before Python 3.12.
    """
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=max(0.0, seconds))
        return event.is_set()
    finally:
        waiting.cancel()


def probe_request(model: str) -> bytes:
    """The smallest real inference: one frame of an avatar that is silent."""
    return encoded(request_of(model, AUDIO=np.zeros(640, np.float32), FRAME_COUNT=np.ones(1, np.int32)))
