"""Loads that failed: why, and when one is worth another try."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lipsync_client.control.states import AvatarState
from lipsync_client.errors import LoadFailed

__all__ = ["BACK_OFF_S", "Failures"]

BACK_OFF_S = (5.0, 300.0)  # seconds before a failed load is tried again: at first, at most


@dataclass(frozen=True)
class _Failure:
    error: LoadFailed
    state: AvatarState  # what the server said of the avatar then
    until: float
    delay: float


class Failures:
    """
    Args:
        state: asks the server for an avatar's state.
        clock: seconds that only grow.
    """

    def __init__(self, state: Callable[[str], Awaitable[AvatarState]], clock: Callable[[], float]) -> None:
        self._state = state
        self._clock = clock
        self._known: dict[str, _Failure] = {}

    def forget(self, avatar: str) -> None:
        """It was loaded, or somebody asks for another try."""
        self._known.pop(avatar, None)

    async def note(self, avatar: str, error: LoadFailed) -> None:
        """A load failed; each time in a row the wait doubles."""
        before = self._known.get(avatar)
        delay = min(before.delay * 2, BACK_OFF_S[1]) if before else BACK_OFF_S[0]
        self._known[avatar] = _Failure(error, await self._state(avatar), self._clock() + delay, delay)

    async def respect(self, avatar: str) -> None:
        """Raise an earlier failure again, unless it is time for another try, or the avatar has changed since."""
        failure = self._known.get(avatar)
        if failure and self._clock() < failure.until and await self._state(avatar) == failure.state:
            raise LoadFailed(f"{failure.error} (not tried again for {failure.until - self._clock():.0f} s)")
