"""Calls that go to the next of several servers when one fails."""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException

from lipsync_client import wire
from lipsync_client.aio import AsyncClient
from lipsync_client.errors import AvatarNotFound, InvalidRequest, LipsyncError, ServerError
from lipsync_client.live.frame import Clock
from lipsync_client.timeline import Request, Timeline
from lipsync_client.wire import Avatar, Result

__all__ = ["Servers"]

T = TypeVar("T")


class Servers:
    """The same models behind one or several addresses.

    A call that fails in a way that another server, or a moment's patience, may mend is repeated as it is: at once at
    the next address, and after a pause once every address has failed. The address that answers is kept.

    Args:
        servers: an address, several, or a client, which is used and not closed.
        avatar: whose face.
        timeout: seconds that one attempt may take.
        patience: seconds from the first attempt on after which a failing call is not repeated any more; None: as long
            as its failure may pass.
        clock: measures the pauses.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | AsyncClient,
        avatar: str,
        *,
        timeout: float,
        patience: float | None,
        clock: Clock,
    ) -> None:
        self._own = not isinstance(servers, AsyncClient)
        if isinstance(servers, AsyncClient):
            self._clients = [servers]
        else:
            urls = [servers] if isinstance(servers, str) else list(servers)
            if not urls:
                raise InvalidRequest("no server address was given")
            self._clients = [AsyncClient(url, timeout=timeout) for url in urls]
        self._avatar = avatar
        self._timeout = timeout
        self._patience = math.inf if patience is None else patience
        self._clock = clock
        self._preferred = 0

    async def timeline(self) -> Timeline:
        """The servers' clock and limits."""
        return await self._anywhere(AsyncClient.timeline)

    async def avatar(self) -> Avatar:
        """The avatar's facts. Raises AvatarNotFound."""
        return await self._anywhere(lambda client: client.avatar(self._avatar))

    async def render(self, request: Request) -> Result:
        """One request for talking frames."""
        return await self._infer(wire.ensemble_of(self._avatar), lambda: wire.tensors(request))

    async def footage(self, key: int, first: int, count: int) -> Result:
        """Plain frames of an avatar's footage, from a position of the loop on. No network runs for them.

        Raises InvalidRequest if no avatar has that key (any more).
        """
        positions = np.arange(first, first + count, dtype=np.int64)[:, None]

        def tensors() -> list[InferInput]:
            values = {"avatar_key": np.full_like(positions, key), "footage_position": positions}
            return [InferInput(name, [count, 1], "INT64").set_data_from_numpy(value) for name, value in values.items()]

        return await self._infer(wire.COMPOSITE_MODEL, tensors)

    async def pause(self, seconds: float) -> None:
        """Wait, on the session's clock."""
        await self._clock.sleep_until(self._clock.now() + seconds)

    async def close(self) -> None:
        """End the connections that were made here."""
        for client in self._clients if self._own else ():
            await client.close()

    async def _infer(self, model: str, tensors: Callable[[], list[InferInput]]) -> Result:
        async def once(client: AsyncClient) -> Result:
            try:
                answer = await client._grpc.infer(model, tensors(), client_timeout=self._timeout)
            except InferenceServerException as error:
                raise wire.translate(error, url=client.url, avatar=self._avatar) from None
            return wire.result_from(answer)

        return await self._anywhere(once)

    async def _anywhere(self, call: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """The first answer. Raises the failure that gives up last, once sending again no longer helps."""
        place = self._preferred
        give_up = self._clock.now() + self._patience
        worst: LipsyncError | None = None  # of this round through the addresses: the one most worth repeating
        for attempt in itertools.count(1):
            client = self._clients[place]
            try:
                answer = await call(client)
            except LipsyncError as error:
                failure = error
            else:
                self._preferred = place
                return answer
            if isinstance(failure, AvatarNotFound):
                failure = await client._look_again(failure, self._avatar)
            if not (failure.retries or isinstance(failure, (AvatarNotFound, ServerError))):
                raise failure
            worst = max(worst or failure, failure, key=lambda error: error.retries)
            place = (place + 1) % len(self._clients)
            if attempt % len(self._clients) == 0:
                delay = wire.retry_delay(worst, attempt // len(self._clients))
                if delay is None or self._clock.now() + delay > give_up:
                    raise worst
                worst = None
                await self.pause(delay)
        raise AssertionError("unreachable")
