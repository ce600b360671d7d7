"""Contrast between the lips: two rows of teeth with a dark line between them, or one grey band."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_studio.evaluation.metrics import Curve
from lipsync_studio.faces.landmarks import Points

Picture = NDArray[np.uint8]
# The face mesh's points around the opening between the lips, without the corners, where there are no teeth.
OPENING = (191, 80, 81, 82, 13, 312, 311, 310, 415, 324, 318, 402, 317, 14, 87, 178, 88, 95)
LEAST = 3.0  # pixels between the lips: fewer show no teeth
NARROW = (2.0, 8.0)  # openings, percent of the eyes' distance: the mouth nearly shuts, and the rows of teeth meet


def teeth_contrast(frame: Picture, points: Points) -> float:
    """Standard deviation of the lightness (L of Lab, 0 to 255) between the lips; nan if they are nearly closed.

    Args:
        frame: BGR.
        points: the face's landmarks in it.
    """
    outline = points[list(OPENING)]
    if points[14, 1] - points[13, 1] < LEAST:
        return float("nan")
    left, top = np.floor(outline.min(0)).astype(int)
    right, bottom = np.ceil(outline.max(0)).astype(int) + 1
    part = np.ascontiguousarray(frame[max(top, 0) : bottom, max(left, 0) : right])
    inside = np.zeros(part.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.rint(outline - (max(left, 0), max(top, 0))).astype(np.int32)], (1,))
    light = cv2.cvtColor(part, cv2.COLOR_BGR2LAB)[..., 0]
    return float(light[inside > 0].std()) if inside.any() else float("nan")


def while_closing(contrast: Curve, opening: Curve) -> Curve:
    """The contrast in frames in which the mouth closes and is narrow; nan in others. A smear has a low one."""
    return _narrow(contrast, opening, np.diff(opening, append=opening[-1:]) < 0)


def while_opening(contrast: Curve, opening: Curve) -> Curve:
    """The same while it opens: as much of the teeth is seen then."""
    return _narrow(contrast, opening, np.diff(opening, append=opening[-1:]) > 0)


def _narrow(contrast: Curve, opening: Curve, moving: NDArray[np.bool_]) -> Curve:
    return np.where(moving & (opening >= NARROW[0]) & (opening <= NARROW[1]), contrast, np.nan)
