"""Which avatars a page may choose."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from lipsync_client import wire
from lipsync_client.control.control import Control
from lipsync_client.errors import LipsyncError

__all__ = ["Faces"]

KEPT_S = 5.0  # how long a list is good: many pages may ask at once


class Faces:
    """The avatars that are offered.

    Args:
        offered: these, the first one first; if there are none: all that the server lists, else the shipped one.
        control: lists the server's avatars; None where the server's control key is not known.
    """

    def __init__(self, offered: Sequence[str] = (), control: Control | None = None) -> None:
        self._offered = list(offered)
        self._control = control
        self._names = [wire.SHIPPED_AVATAR]
        self._asked = -KEPT_S

    async def names(self) -> list[str]:
        """What a page may choose from now; the first one is what it gets without a choice."""
        if self._offered or self._control is None:
            return self._offered or self._names
        if time.monotonic() - self._asked > KEPT_S:
            self._asked = time.monotonic()
            try:
                found = [one.id for one in await asyncio.to_thread(self._control.avatars) if one.phase != "failed"]
            except LipsyncError:  # whoever opens a session is told
                return self._names
            self._names = sorted(found, key=lambda name: (name != wire.SHIPPED_AVATAR, name)) or self._names
        return self._names
