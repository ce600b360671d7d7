"""Text for lists of frame numbers."""

from __future__ import annotations

from collections.abc import Iterable


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers: first and last of each."""
    result: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if result and number == result[-1][1] + 1:
            result[-1] = (result[-1][0], number)
        else:
            result.append((number, number))
    return result


def frame_ranges(numbers: Iterable[int], most: int = 4) -> str:
    """For example "frames 3-7, 12 and 31-40", or with "and 5 more places" from `most` ranges on."""
    found = ranges(numbers)
    texts = [f"{a}" if a == b else f"{a}-{b}" for a, b in found[:most]]
    if len(found) > most:
        texts.append(f"{len(found) - most} more places")
    start = "frame " if len(found) == 1 and found[0][0] == found[0][1] else "frames "
    return start + (" and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0])
