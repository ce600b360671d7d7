"""CPBD, a sharpness that needs no truth: the share of edges whose blur nobody notices (Narvekar and Karam 2011)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Flags = NDArray[np.bool_]
BLOCK = 64  # pixels
EDGE_BLOCK = 0.002  # share of a block's pixels that are edges, from which it is an edge block
FAINT, NOTICED_FAINT, NOTICED = 50, 5, 3  # contrast in levels up to which blur is noticed from 5 pixels on, else from 3
NON_EDGES = 0.7  # quantile of the gradient that is Canny's upper threshold, and below 0.4 of it no edge goes on
UPRIGHT = np.tan(np.pi / 8)  # slope of the gradient up to which an edge counts as vertical


def cpbd(picture: Picture) -> float:
    """The sharpness of a BGR picture of at least 64x64 pixels: 1 is sharp, 0 is blurred; nan without any edge.

    The paper gives each vertical edge a probability that its blur is noticed, 1 - exp(-(width / just noticeable)^3.6),
    and counts the edges for which it is at most 63 %. That is the case up to the just noticeable width exactly.
    """
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)
    widths = edge_widths(grey.astype(np.float64))
    edges = _canny(grey)
    unnoticed = total = 0
    for top in range(0, grey.shape[0] - BLOCK + 1, BLOCK):
        for left in range(0, grey.shape[1] - BLOCK + 1, BLOCK):
            block = np.s_[top : top + BLOCK, left : left + BLOCK]
            if edges[block].mean() <= EDGE_BLOCK:
                continue
            noticed = NOTICED_FAINT if int(grey[block].max()) - int(grey[block].min()) <= FAINT else NOTICED
            found = widths[block][widths[block] > 0]
            unnoticed += int((found <= noticed).sum())
            total += len(found)
    return unnoticed / total if total else float("nan")


def edge_widths(grey: NDArray[np.float64]) -> NDArray[np.int64]:
    """Width of each vertical edge in its pixel, else 0: from the extremum left of it to the one right of it.

    Edges are chosen as python-cpbd does, with which nearly all publications measure: maxima along a row or a column of
    the squared gradient, where it is above twice the root of its mean. The paper's own program chooses fewer.
    """
    across = cv2.Sobel(grey, -1, 1, 0, ksize=3, borderType=cv2.BORDER_REFLECT) / 8
    down, along = np.gradient(grey)
    power = across**2
    power[power <= 2 * np.sqrt(power.mean())] = 0
    around = np.pad(power, 1)
    row = (power > around[1:-1, :-2]) & (power > around[1:-1, 2:])
    column = (power > around[:-2, 1:-1]) & (power > around[2:, 1:-1])
    edge = row | column
    edge[[0, -1]] = edge[:, [0, -1]] = False
    edge &= np.abs(down) < UPRIGHT * np.abs(along)
    widths = np.zeros(grey.shape, np.int64)
    for sign in (1, -1):
        left, right = _extents(sign * np.diff(grey, axis=1) > 0)
        chosen = edge & (sign * along > 0)
        widths[chosen] = (left + right)[chosen]
    return widths


def _extents(steps: Flags) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels to the left and right of each one over which a row goes on rising; the next pixel counts in any case.

    Args:
        steps: [height,width-1], whether the row rises from one pixel to the next.
    """
    height, count = steps.shape
    left, right = np.zeros((2, height, count + 1), np.int64)
    for i in range(1, count):
        left[:, i + 1] = np.where(steps[:, i - 1], left[:, i] + 1, 0)
        right[:, count - i - 1] = np.where(steps[:, count - i], right[:, count - i] + 1, 0)
    return left + 1, right + 1


def _canny(grey: Picture) -> Flags:
    """Canny's edges with MATLAB's thresholds, which the paper's authors used."""
    smooth = cv2.GaussianBlur(grey, (0, 0), np.sqrt(2))
    x, y = (cv2.Sobel(smooth, cv2.CV_16S, *way) for way in ((1, 0), (0, 1)))
    high = max(float(np.quantile(np.hypot(x.astype(np.float32), y), NON_EDGES)), 1.0)
    return np.asarray(cv2.Canny(x, y, 0.4 * high, high, L2gradient=True) > 0)
