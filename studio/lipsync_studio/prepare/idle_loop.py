"""The idle loop: the part of the footage that is played while nobody speaks, and that mouths are pasted on."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_server.repository.source import Picture

LONGEST, SHORTEST = 250, 50  # frames: viewers notice a loop of less than two seconds, but not one of ten
STEP = 5  # frames between the lengths tried
SIDE = 24  # pixels of a look
SEAM = 1.5  # times the usual step from frame to frame: no jump is visible
SHORTNESS = 0.3  # cost of the shortest loop, in units of unrest
CUT, CUT_LEAST = 8.0, 8.0  # usual steps, and mean grey levels of a look: a larger step is a cut
BACK = 0.15  # cost of playing backwards: reversed head motion looks slightly unnatural


class Loop(NamedTuple):
    """A part of the footage. `kind` is avatar.yaml's `loop`: `forward` or `pingpong`.

    `seam`: the step from the last frame to the first, relative to the usual step from frame to frame; 0 for `pingpong`.
    """

    first: int
    frames: int
    kind: str
    seam: float = 0.0


def look(frame: Picture, box: tuple[int, int, int]) -> NDArray[np.float32]:
    """A descriptor of a frame around the face, to compare frames: grey levels of a small picture, and the box, [579].

    The region is the box and half of its size around it, so that head motion counts and the background hardly does.
    """
    x, y, size = box
    around = size // 2
    top, left = max(y - around, 0), max(x - around, 0)
    part = frame[top : y + size + around, left : x + size + around]
    small = cv2.resize(cv2.cvtColor(part, cv2.COLOR_BGR2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    place = np.array(box, np.float32) / size * 255  # a shift by the whole box counts as much as black to white
    return np.concatenate([small.ravel().astype(np.float32), place * SIDE / 4])


def mouth_look(crop: Picture) -> NDArray[np.float32]:
    """A small picture of the lower half of a face crop [320,320,3]."""
    return cv2.resize(crop[160:], (64, 32), interpolation=cv2.INTER_AREA).astype(np.float32)


def unrest_of(mouths: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """How much each `mouth_look` differs from the one before, 0 to 1. It replaces landmarks where there are none."""
    steps = np.array([0.0] + [float(np.abs(b - a).mean()) for a, b in pairwise(mouths)])
    return (steps / max(float(np.percentile(steps, 90)), 1e-6)).clip(0, 1).astype(np.float32)


def _steps(looks: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Distance of each look from the one before (0 for the first, NaN where there is none), and the usual distance."""
    steps = np.concatenate([[0.0], np.linalg.norm(np.diff(looks, axis=0), axis=1)])
    known = steps[1:][np.isfinite(steps[1:])]
    return steps, max(float(np.median(known)), 1e-6) if len(known) else 1.0


def cuts_of(looks: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Frames that do not continue the one before: after a cut, or a broken picture."""
    steps, ordinary = _steps(looks)
    return np.nan_to_num(steps, nan=0.0) > max(CUT * ordinary, CUT_LEAST * SIDE)


def choose_loop(
    looks: NDArray[np.float32], unrest: NDArray[np.float32], usable: NDArray[np.bool_], longest: int = LONGEST
) -> Loop:
    """The calmest part of the footage: one that ends as it begins (`forward`), or one to play there and back.

    Args:
        looks: [n, k], of consecutive frames, see `look`; NaN where there is none.
        unrest: [n], 0 where the mouth is at rest, 1 where it speaks.
        usable: [n], false where a frame must not be shown, and between two clips.
        longest: frames of the loop at most, at least SHORTEST.
    """
    steps, ordinary = _steps(looks)
    usable = usable & ~cuts_of(looks)  # no loop contains a cut
    best, lowest = None, np.inf
    for count in range(SHORTEST, min(longest, len(looks)) + 1, STEP):
        starts = np.flatnonzero(_window_sum(~usable, count) == 0)
        if not len(starts):
            break
        cost = _window_sum(unrest, count)[starts] / count + SHORTNESS * (longest - count) / max(longest - SHORTEST, 1)
        turns = (steps[starts + 1] + steps[starts + count - 1]) / 2 / ordinary  # still ends hide the turn
        there_and_back = cost + 0.1 * turns + BACK
        if there_and_back.min() < lowest:
            at = int(np.argmin(there_and_back))
            best, lowest = Loop(int(starts[at]), count, "pingpong"), float(there_and_back[at])
        follows = starts[starts + count < len(looks)]
        seam = np.linalg.norm(looks[follows + count] - looks[follows], axis=1) / ordinary
        fits = np.flatnonzero(seam <= SEAM)
        around = cost[fits] + 0.1 * seam[fits]
        if len(fits) and around.min() < lowest:
            at = int(fits[np.argmin(around)])
            best, lowest = Loop(int(follows[at]), count, "forward", float(seam[at])), float(around.min())
    if best:
        return best
    first, count = _longest_run(usable)
    return Loop(first, min(count, longest), "pingpong")


def _window_sum(values: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Sums of `count` neighbours, [n - count + 1]."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.asarray(total[count:] - total[:-count])


def _longest_run(usable: NDArray[np.bool_]) -> tuple[int, int]:
    """First frame and number of frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], usable.astype(np.int8), [0]])))
    if not len(edges):
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    longest = int(np.argmax(lengths))
    return int(edges[2 * longest]), int(lengths[longest])
