"""Measures the opening and the width of an avatar's mouth in a frame, in percent of the distance of its eyes."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from lipsync_studio.faces.landmarks import (
    CORNERS,
    EYES,
    UNDER_LIP,
    UNDER_NOSE,
    FaceMesh,
    Points,
    Region,
    distance,
    inner_lips,
)

Picture = NDArray[np.uint8]
Box = tuple[int, int, int]  # x, y, size of the square face crop in the frame
BIN = 8  # levels of a colour's L, a and b that count as the same
CALM = 0.5  # percent of the eyes' distance: frames within it of the calmest third are "at rest" too
STRIP = 0.12  # half width of the strip through the lips' middle, in mouth widths


class MouthShape(NamedTuple):
    """All in percent of the distance of the eyes' outer corners."""

    opening: float  # distance of the inner lips beyond that at rest, by landmarks
    width: float  # distance of the mouth's corners, by landmarks
    gap: float  # height of the visible gap between the lips: colours that the mouth at rest does not have


class MouthMeter:
    """Measures frames of one avatar. It learns the face's region and the mouth at rest from plain footage.

    The landmark network's region is fixed relative to the crop box, which follows the head. A region of its own for
    each frame would make the landmarks tremble.

    Args:
        mesh: the landmark network.
        frames: footage frames, BGR, a few dozen from the whole loop. In at least a third of them the mouth must be at
            rest.
        boxes: their crop boxes.

    Attributes:
        eyes: distance of the eyes' outer corners, pixels.
        rest: distance of the inner lips at rest, percent of `eyes`.
        lips: centre x, y of the mouth and its width, relative to the crop box.

    Raises:
        ValueError: a crop box has no face.
    """

    def __init__(self, mesh: FaceMesh, frames: list[Picture], boxes: list[Box]) -> None:
        self._mesh = mesh
        found = [mesh.find(frame, box) for frame, box in zip(frames, boxes, strict=True)]
        regions = [
            ((r.x - x) / s, (r.y - y) / s, r.side / s, r.turn) for (_, r), (x, y, s) in zip(found, boxes, strict=True)
        ]
        self._region = np.median(regions, axis=0)
        points = [self.landmarks(frame, box) for frame, box in zip(frames, boxes, strict=True)]
        self.eyes = float(np.median([distance(p, EYES) for p in points]))
        openings = np.array([inner_lips(p) for p in points]) / self.eyes * 100
        calm = np.flatnonzero(openings <= np.quantile(openings, 1 / 3) + CALM)
        self.rest = float(np.median(openings[calm]))
        inside = [(p - (x, y)) / s for p, (x, y, s) in zip(points, boxes, strict=True)]
        calmest = np.median([inside[i] for i in calm], axis=0)
        corners = calmest[list(CORNERS)]
        self.lips = (*corners.mean(0).tolist(), float(corners[1, 0] - corners[0, 0]))
        self._rows = float(calmest[UNDER_NOSE, 1]), float(calmest[UNDER_LIP, 1] + 0.35 * self.lips[2])
        self._rest_colours = np.zeros((256 // BIN,) * 3, bool)
        for i in calm:
            self._rest_colours[tuple((self._strip(frames[i], boxes[i], 1.5 * STRIP) // BIN).reshape(-1, 3).T)] = True
        self._rest_colours = binary_dilation(self._rest_colours, np.ones((3, 3, 3)), iterations=1)

    def measure(self, frame: Picture, box: Box) -> MouthShape:
        """The mouth shape in a frame, BGR."""
        return self.shape(self.landmarks(frame, box), frame, box)

    def shape(self, points: Points, frame: Picture, box: Box) -> MouthShape:
        """The mouth shape in a frame whose landmarks are known."""
        strip = self._strip(frame, box, STRIP)
        new = ~self._rest_colours[tuple((strip // BIN).reshape(-1, 3).T)]
        scale = 100 / self.eyes
        return MouthShape(
            inner_lips(points) * scale - self.rest,
            distance(points, CORNERS) * scale,
            float(new.mean()) * len(strip) * scale,
        )

    def landmarks(self, frame: Picture, box: Box) -> Points:
        """The face's landmarks in a frame, BGR: [468,2], pixels."""
        x, y, size = box
        dx, dy, side, turn = self._region
        return self._mesh.points(frame, Region(x + dx * size, y + dy * size, side * size, turn))[0]

    def _strip(self, frame: Picture, box: Box, half: float) -> Picture:
        """Lab colours from under the nose to under the lower lip, in the middle of the mouth."""
        x, y, size = box
        middle, _, width = self.lips
        left, right = (round(x + (middle + way * half * width) * size) for way in (-1, 1))
        top, bottom = (round(y + row * size) for row in self._rows)
        part = np.ascontiguousarray(frame[top:bottom, left:right])
        return np.asarray(cv2.cvtColor(part, cv2.COLOR_BGR2LAB), np.uint8)
