"""A sheet of mouths: the network's, the head's, and their difference, where a head could fail."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_studio.distillation.comparison import Comparison, Pair
from lipsync_studio.evaluation import metrics
from lipsync_studio.evaluation.contact_sheets import labelled
from lipsync_studio.evaluation.patch_metrics import Picture

EACH = 4  # frames of each kind
APART = 3  # frames between two of a kind
STRONGER = 8  # times the difference is shown


def write_sheet(path: Path, speech: Comparison, silence: Comparison) -> None:
    """Write one row for each kind of mouth: wide open, closed while somebody speaks, at rest.

    Args:
        speech, silence: compared with their pictures kept.
    """
    rows = []
    for name, comparison, frames in (
        ("open", speech, widest(speech)),
        ("closed", speech, closures(speech)),
        ("rest", silence, np.linspace(0, len(silence.pairs) - 1, EACH).astype(int).tolist()),
    ):
        rows.append([_labelled(comparison.pairs[at], f"{name} {comparison.first + at}") for at in frames])
    height = max(cell.shape[0] for row in rows for cell in row)
    width = max(cell.shape[1] for row in rows for cell in row)
    blank = np.full((height, width, 3), 255, np.uint8)
    padded = [[_in_corner(blank, cell) for cell in row] + [blank] * (EACH - len(row)) for row in rows]
    cv2.imwrite(str(path), np.vstack([np.hstack(row) for row in padded]))


def widest(comparison: Comparison) -> list[int]:
    """The frames with the widest openings."""
    return _apart(np.argsort(-comparison.curves("opening")[0]))


def closures(comparison: Comparison) -> list[int]:
    """The frames with the smallest openings where the speech is loud before and after: mostly p, b and m."""
    level = metrics.level(comparison.speech.audio, comparison.speech.frames)[comparison.first :]
    loud = np.flatnonzero(level > metrics.QUIET)
    opening = comparison.curves("opening")[0]
    between = [at for at in np.argsort(opening).tolist() if (loud < at).any() and (loud > at).any()]
    return _apart(np.array(between, np.int64))


def _apart(order: NDArray[np.int64]) -> list[int]:
    chosen: list[int] = []
    for at in order.tolist():
        if len(chosen) < EACH and all(abs(at - other) >= APART for other in chosen):
            chosen.append(at)
    return sorted(chosen)


def _labelled(pair: Pair, name: str) -> Picture:
    """The network's mouth, the head's, and the difference around grey."""
    difference = pair.turbo.astype(np.int16) - pair.teacher
    seen = np.clip(128 + STRONGER * difference, 0, 255).astype(np.uint8)
    texts = (f"{name} FP32", "turbo", f"difference x{STRONGER}")
    pictures = (pair.teacher, pair.turbo, seen)
    size = pair.teacher.shape[:2]
    return np.hstack([labelled(picture, text, *size) for picture, text in zip(pictures, texts, strict=True)])


def _in_corner(blank: Picture, cell: Picture) -> Picture:
    result = blank.copy()
    result[: cell.shape[0], : cell.shape[1]] = cell
    return result
