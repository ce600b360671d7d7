"""How an avatar's footage repeats."""

from __future__ import annotations

LOOPS = ("forward", "pingpong")


def footage_index(position: int, count: int, loop: str) -> int:
    """The footage frame at a position >= 0 of the endless loop over `count` frames.

    `forward`: 0, 1, .., n-1, 0, 1, ..; `pingpong`: 0, 1, .., n-1, n-2, .., 1, 0, 1, ..
    """
    if loop == "forward" or count == 1:
        return position % count
    step = position % (2 * count - 2)
    return min(step, 2 * count - 2 - step)
