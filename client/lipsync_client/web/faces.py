"""Which avatars a page may choose, and that they are loaded while it shows them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from lipsync_client import wire
from lipsync_client.errors import LipsyncError
from lipsync_client.registry.registry import Registry

__all__ = ["Faces"]

KEPT_S = 5.0  # how long a list is good: many pages may ask at once


class Faces:
    """The avatars that are offered. A context manager, of an event loop's.

    Args:
        offered: these, the first one first; if there are none: all that the registry knows, else the shipped one.
        registry: loads them when they are asked for; None where the server's control key is not known: then others
            must have loaded them.
    """

    def __init__(self, offered: Sequence[str] = (), registry: Registry | None = None) -> None:
        self._offered = list(offered)
        self._registry = registry
        self._names = [wire.SHIPPED_AVATAR]
        self._asked = -KEPT_S

    async def names(self) -> list[str]:
        """What a page may choose from now; the first one is what it gets without a choice."""
        if self._offered or self._registry is None:
            return self._offered or self._names
        if time.monotonic() - self._asked > KEPT_S:
            self._asked = time.monotonic()
            try:
                found = [one.state.id for one in await self._registry.overview() if one.state.phase != "failed"]
            except LipsyncError:  # whoever opens a session is told
                return self._names
            self._names = sorted(found, key=lambda name: (name != wire.SHIPPED_AVATAR, name)) or self._names
        return self._names

    @asynccontextmanager
    async def lease(self, avatar: str) -> AsyncIterator[None]:
        """An avatar that is loaded while the block runs. Raises LipsyncError."""
        if self._registry is None:
            yield
        else:
            async with self._registry.lease(avatar):
                yield

    async def __aenter__(self) -> Faces:
        if self._registry:
            await self._registry.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._registry:
            await self._registry.close()
