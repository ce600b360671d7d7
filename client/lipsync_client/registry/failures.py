"""Back-off after loads that failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lipsync_client.control.states import AvatarState
from lipsync_client.errors import LoadFailed

__all__ = ["BACK_OFF_S", "Failures"]

BACK_OFF_S = (5.0, 300.0)  # seconds before a failed load is tried again: the first time, and at most


@dataclass(frozen=True)
class _Failure:
    error: LoadFailed
    state: AvatarState  # of the avatar just after the failure
    until: float
    delay: float


class Failures:
    """Avatars whose last load failed, and when each may be tried again.

    Args:
        state: asks the server for an avatar's state.
        clock: monotonic, in seconds.
    """

    def __init__(self, state: Callable[[str], Awaitable[AvatarState]], clock: Callable[[], float]) -> None:
        self._state = state
        self._clock = clock
        self._known: dict[str, _Failure] = {}

    def forget(self, avatar: str) -> None:
        """Allow the next load at once: the avatar was loaded, or a caller asks for another try explicitly."""
        self._known.pop(avatar, None)

    async def record(self, avatar: str, error: LoadFailed) -> None:
        """Record a failed load. The back-off doubles with every consecutive failure."""
        before = self._known.get(avatar)
        delay = min(before.delay * 2, BACK_OFF_S[1]) if before else BACK_OFF_S[0]
        self._known[avatar] = _Failure(error, await self._state(avatar), self._clock() + delay, delay)

    async def check(self, avatar: str) -> None:
        """Raise the last failure again, unless its back-off has ended or the avatar's state has changed since."""
        failure = self._known.get(avatar)
        if failure and self._clock() < failure.until and await self._state(avatar) == failure.state:
            raise LoadFailed(f"{failure.error} (not tried again for {failure.until - self._clock():.0f} s)")
