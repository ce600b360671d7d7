"""Messages over gRPC while they come, and how much memory they take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from lipsync_server.gateway.refusal import invalid, overloaded
from lipsync_server.gateway.settings import GatewaySettings

__all__ = ["Reading"]

SLOW_S = 2.0  # an ordinary message has come by then
FAST = 4  # messages that may come at once for each slow one
STREAM_IDLE_S = 600.0  # a stream may be silent for so long, or send at one message


class Reading:
    """Reads messages within limits. For one event loop.

    How large a message is, is known when it is there. Until then it counts as the largest that is allowed. So only
    some are read at once; the others wait, and gRPC takes no more than 64 KiB of each. What comes slowly makes room
    for the others: it goes on as long as it is one of a few, and in time.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._timeout = settings.body_timeout_s
        self._limit = settings.max_reading_mb << 20
        self._max_slow = max(1, settings.max_reading_mb // settings.max_message_size_mb)
        self._fast = asyncio.Semaphore(FAST * self._max_slow)
        self._slow: list[asyncio.Future[None]] = []  # each is told when it must make room, the oldest first
        self._held = 0  # bytes

    @asynccontextmanager
    async def message(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The message of a call that has one. It counts as held while the block runs.

        Raises:
            Refused: it did not come, not in time, or there is no memory for it.
        """
        data = await self._read(requests)
        try:
            with self.held(len(data)):
                yield data
        finally:
            del data  # see GrpcDoor

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """A message of so many bytes is in memory while the block runs. Raises Refused if there is no room for it."""
        if self._held and self._held + size > self._limit:
            raise overloaded(f"open requests have {self._held} bytes: at most {self._limit} are taken at once")
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    async def messages(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The messages of a stream, which its reader counts as held. Raises Refused when it is silent for too long."""
        while True:
            try:
                message = await asyncio.wait_for(anext(requests), STREAM_IDLE_S)
            except StopAsyncIteration:
                return
            except asyncio.TimeoutError:
                raise invalid(f"the stream has sent no whole message for {STREAM_IDLE_S:g} s", "idle stream") from None
            yield message

    async def _read(self, requests: AsyncIterator[bytes]) -> bytes:
        try:
            await asyncio.wait_for(self._fast.acquire(), self._timeout)
        except asyncio.TimeoutError:
            raise overloaded(f"messages are read one after the other: this one waited {self._timeout:g} s") from None
        reading: asyncio.Future[bytes] = asyncio.ensure_future(anext(requests))
        try:
            await asyncio.wait({reading}, timeout=min(SLOW_S, self._timeout))
        except asyncio.CancelledError:
            reading.cancel()
            raise
        finally:
            self._fast.release()
        try:
            if not reading.done():
                await self._read_slowly(reading)
            return reading.result()
        except StopAsyncIteration:
            raise invalid("the call has no message", "no message") from None
        finally:
            reading.cancel()

    async def _read_slowly(self, reading: asyncio.Future[bytes]) -> None:
        room = asyncio.get_running_loop().create_future()
        self._slow.append(room)
        if len(self._slow) > self._max_slow:
            self._slow.pop(0).set_result(None)
        try:
            left = max(0.0, self._timeout - SLOW_S)
            await asyncio.wait({reading, room}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if room in self._slow:
                self._slow.remove(room)
        if reading.done():
            return
        if room.done():
            raise overloaded(f"{self._max_slow} messages that come slowly are read at once, and this is one more")
        raise invalid(f"the message did not come within {self._timeout:g} s", "slow message")
