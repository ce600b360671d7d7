"""How soon what failed is started again."""

from __future__ import annotations

__all__ = ["Backoff"]

FIRST_S, LONGEST_S = 1.0, 60.0
AT_ONCE = 2
STABLE_S = 60.0  # what has worked for so long has not failed at its start


class Backoff:
    """Delays before a program is started again.

    The first two are 0: what has worked for long is replaced at once. While it ends soon after each start, the delays
    double from 1 s to 60 s.
    """

    def __init__(self) -> None:
        self._failures = 0

    def delay(self, lived: float) -> float:
        """Seconds to wait after a failure.

        Args:
            lived: seconds that the program worked before; 0: it did not start.
        """
        if lived >= STABLE_S:
            self._failures = 0
        self._failures += 1
        if self._failures <= AT_ONCE:
            return 0.0
        doublings = min(self._failures - AT_ONCE - 1, 60)  # a float has no room for those of a day
        return min(FIRST_S * 2.0**doublings, LONGEST_S)
