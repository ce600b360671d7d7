"""Calls that go to the next of several servers when one fails."""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from lipsync_client.aio import AsyncClient
from lipsync_client.answers import Avatar, Result
from lipsync_client.errors import InvalidRequest, LipsyncError
from lipsync_client.live.frame import Clock
from lipsync_client.retry import Attempts
from lipsync_client.timeline import Request, Timeline

__all__ = ["Servers"]

T = TypeVar("T")


class Servers:
    """The same models behind one or several addresses.

    A call that fails is repeated as `Attempts` says. The address that answered last is asked first.

    Args:
        servers: an address, several, or a client, which is used and not closed.
        token, headers: as for `Client`; a client has its own.
        avatar: whose face.
        timeout: seconds that one attempt may take.
        patience: seconds after which a failing call is given up, if that is sooner than by default; None: by default.
        clock: the session's clock, for delays.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | AsyncClient,
        avatar: str,
        *,
        timeout: float,
        patience: float | None,
        clock: Clock,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._own = not isinstance(servers, AsyncClient)
        if isinstance(servers, AsyncClient):
            if token is not None or headers:
                raise InvalidRequest("a client has its own token and headers: give them to AsyncClient")
            self._clients = [servers]
        else:
            urls = [servers] if isinstance(servers, str) else list(servers)
            if not urls:
                raise InvalidRequest("no server address was given")
            self._clients = [AsyncClient(url, timeout=timeout, token=token, headers=headers) for url in urls]
        self._avatar = avatar
        self._timeout = timeout
        self._patience = math.inf if patience is None else patience
        self._clock = clock
        self._preferred = 0
        self._session = secrets.token_hex(8)

    async def timeline(self) -> Timeline:
        """The servers' clock and limits."""
        return await self._anywhere(AsyncClient.timeline)

    async def avatar(self) -> Avatar:
        """The avatar's facts. Raises AvatarNotFound."""
        return await self._anywhere(lambda client: client.avatar(self._avatar))

    async def render(self, request: Request) -> Result:
        """One request for talking frames."""
        return await self._anywhere(
            lambda client: client.attempt(request, self._avatar, timeout=self._timeout, session=self._session)
        )

    async def footage(self, key: int, first: int, count: int) -> Result:
        """Plain frames, as `AsyncClient.footage`."""
        return await self._anywhere(
            lambda client: client.footage(key, first, count, self._avatar, timeout=self._timeout, session=self._session)
        )

    async def gives_patches(self) -> bool:
        """As `AsyncClient.gives_patches`."""
        return await self._anywhere(lambda client: client.gives_patches(self._avatar))

    async def pause(self, seconds: float) -> None:
        """Wait, on the session's clock."""
        await self._clock.sleep_until(self._clock.now() + seconds)

    async def close(self) -> None:
        """End the connections that were made here."""
        for client in self._clients if self._own else ():
            await client.close()

    async def _anywhere(self, call: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """The first answer. Raises LipsyncError when another attempt would not help."""
        attempts = Attempts(len(self._clients), first=self._preferred, patience=self._patience, now=self._clock.now)
        while True:
            address = attempts.address
            try:
                answer = await call(self._clients[address])
            except LipsyncError as failure:
                delay = attempts.delay_after(failure)
            else:
                self._preferred = address
                return answer
            if delay:
                await self.pause(delay)
