"""How many live sessions of a token talk at once."""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["KEPT_S", "LiveSessions"]

KEPT_S = 10.0  # a session keeps its place so long after its last request; a silent face asks for nothing
SESSION = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class LiveSessions:
    """The places of live sessions. A session is what a client calls so: its requests carry one id in a header.

    Args:
        now: monotonic, in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last: dict[str, dict[str, float]] = {}  # by owner: when each of its sessions was last heard of

    def admit(self, owner: str, session: str, most: int) -> bool:
        """Whether a request of a session may go on, because it has a place or takes a free one.

        Args:
            owner: the name of its token.
            session: its id; requests without one, or with none that could be one, need no place.
            most: places of the owner.
        """
        if not SESSION.fullmatch(session):
            return True
        now = self._now()
        kept = {one: last for one, last in self._last.get(owner, {}).items() if now - last < KEPT_S}
        admitted = session in kept or len(kept) < most
        if admitted:
            kept[session] = now
        self._last[owner] = kept
        return admitted
