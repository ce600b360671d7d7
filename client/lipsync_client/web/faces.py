"""Which avatars a page may choose. The one place where loading them on demand is plugged in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from .. import wire
from ..control import Control
from ..errors import LipsyncError

__all__ = ["Faces"]

KEPT_S = 5.0  # how long a list is good: many pages may ask at once
ASK_S = 5.0  # seconds that the server may take to answer


class Faces:
    """The avatars that are offered.

    Args:
        server: host:port of its gRPC endpoint.
        offered: these, the first one first; if there are none: those that the server has loaded, as far as its control
            key is known, else the shipped one.
    """

    def __init__(self, server: str, offered: Sequence[str] = ()) -> None:
        self._server = server
        self._ask_server = not offered
        self._names = list(offered) or [wire.SHIPPED_AVATAR]
        self._asked = -KEPT_S
        self._asking = asyncio.Lock()

    async def names(self) -> list[str]:
        """What a page may choose from now; the first one is what it gets without a choice."""
        async with self._asking:
            if self._ask_server and time.monotonic() - self._asked > KEPT_S:
                self._names = await asyncio.to_thread(self._ask)
                self._asked = time.monotonic()
        return self._names

    @asynccontextmanager
    async def lease(self, avatar: str) -> AsyncIterator[None]:
        """While an avatar is in use. Today others load avatars: `lipsync avatars load`."""
        yield

    def _ask(self) -> list[str]:
        try:
            with Control(self._server, timeout=ASK_S) as control:
                loaded = [state.id for state in control.avatars() if state.loaded]
        except LipsyncError:  # no key, or no server: whoever opens a session is told which
            return self._names
        return sorted(loaded, key=lambda name: (name != wire.SHIPPED_AVATAR, name)) or self._names
