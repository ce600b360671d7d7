"""The crop box: the square of a frame that the network sees, computed from landmarks and smoothed over time.

As SyncTalk_2D's, it reaches from below the eyes to under the chin, and from ear to ear. SyncTalk_2D computes it from
three of PFLD's 110 landmarks: the outline of the face left and right, about at the ears, and the second point of the
bridge of the nose, a third of the way down. Here they are MediaPipe's face mesh points at the same places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, median_filter

LEFT, RIGHT = 234, 454  # the outline at the ears
BRIDGE_TOP, NOSE_TIP = 168, 1
DOWN = 0.3  # of the way from between the eyes to the tip of the nose
MEDIAN, SIGMA_PLACE, SIGMA_SIZE = 5, 2.0, 12.0  # frames: of the median filter, and of the Gaussians
JUMP = 0.08  # of the box's size from one frame to the next: a cut, and nothing is smoothed across it


def raw_boxes(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Left, top and size, in pixels, [n,3], of landmarks [n,468,2]; NaN where there is no face."""
    left, right = points[:, LEFT, 0], points[:, RIGHT, 0]
    top = points[:, BRIDGE_TOP, 1] + DOWN * (points[:, NOSE_TIP, 1] - points[:, BRIDGE_TOP, 1])
    return np.asarray(np.stack([left, top, right - left], 1), np.float64)


def smooth_boxes(raw: NDArray[np.float64]) -> NDArray[np.int64]:
    """Boxes in whole pixels, [n,3], smoothed over time; interpolated where there is no face.

    The middle of the box follows the head quickly, its size slowly: a head hardly changes its size, and a trembling
    size looks like a face that swells and shrinks.

    Args:
        raw: see `raw_boxes`.
    """
    known = np.flatnonzero(np.isfinite(raw).all(1))
    if not len(known):
        return np.zeros((len(raw), 3), np.int64)
    places = np.stack([raw[:, 0] + raw[:, 2] / 2, raw[:, 1], raw[:, 2]], 1)
    filled = np.stack([np.interp(np.arange(len(raw)), known, column[known]) for column in places.T], 1)
    filled = median_filter(filled, (min(MEDIAN, len(raw)), 1), mode="nearest")
    jumps = np.abs(np.diff(filled[:, :2], axis=0)).max(1, initial=0) > JUMP * filled[1:, 2]
    return np.concatenate([_smooth_shot(shot) for shot in np.split(filled, np.flatnonzero(jumps) + 1)])


def _smooth_shot(shot: NDArray[np.float64]) -> NDArray[np.int64]:
    """Middle, top and size of consecutive frames -> whole left, top and size."""
    middle, top, size = (
        gaussian_filter1d(column, sigma, mode="nearest")
        for column, sigma in zip(shot.T, (SIGMA_PLACE, SIGMA_PLACE, SIGMA_SIZE), strict=True)
    )
    whole = np.rint(size)
    return np.asarray(np.stack([np.rint(middle - whole / 2), np.rint(top), whole], 1), np.int64)
