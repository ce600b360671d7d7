"""How open and how wide an avatar's mouth is in a finished frame, in percent of the distance of its eyes."""

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
CALM = 0.5  # percent of the eyes' distance: frames so near the calmest third are "at rest" too
STRIP = 0.12  # half width of the strip through the lips' middle, in mouth widths


class MouthShape(NamedTuple):
    """All in percent of the distance of the eyes' outer corners."""

    opening: float  # distance of the inner lips beyond that at rest, by landmarks
    width: float  # distance of the mouth's corners, by landmarks
    gap: float  # height of what shows between the lips: colours that the mouth at rest does not have


class MouthMeter:
    """Measures frames of one avatar. It learns the face's place and the mouth at rest from plain footage.

    The landmark network always looks at the same place relative to the crop box, which follows the head: looking anew
    for each frame would make the points tremble.

    Args:
        mesh: the landmark network.
        frames: footage frames, BGR, a few dozen from everywhere in the loop; in a third of them at least the mouth is
            at rest.
        boxes: their crop boxes.

    Attributes:
        eyes: distance of the eyes' outer corners in pixels.
        rest: distance of the inner lips at rest, percent of it.
        lips: centre x, y of the mouth and its width, in parts of the crop box.

    Raises:
        ValueError: no face at a crop box.
    """

    def __init__(self, mesh: FaceMesh, frames: list[Picture], boxes: list[Box]) -> None:
        self._mesh = mesh
        found = [mesh.find(frame, box) for frame, box in zip(frames, boxes, strict=True)]
        places = [
            ((r.x - x) / s, (r.y - y) / s, r.side / s, r.turn) for (_, r), (x, y, s) in zip(found, boxes, strict=True)
        ]
        self._place = np.median(places, axis=0)
        points = [self._points(frame, box) for frame, box in zip(frames, boxes, strict=True)]
        self.eyes = float(np.median([distance(p, EYES) for p in points]))
        openings = np.array([inner_lips(p) for p in points]) / self.eyes * 100
        calm = np.flatnonzero(openings <= np.quantile(openings, 1 / 3) + CALM)
        self.rest = float(np.median(openings[calm]))
        inside = [(p - (x, y)) / s for p, (x, y, s) in zip(points, boxes, strict=True)]
        calmest = np.median([inside[i] for i in calm], axis=0)
        corners = calmest[list(CORNERS)]
        self.lips = (*corners.mean(0).tolist(), float(corners[1, 0] - corners[0, 0]))
        self._rows = float(calmest[UNDER_NOSE, 1]), float(calmest[UNDER_LIP, 1] + 0.35 * self.lips[2])
        self._known = np.zeros((256 // BIN,) * 3, bool)
        for i in calm:
            self._known[tuple((self._strip(frames[i], boxes[i], 1.5 * STRIP) // BIN).reshape(-1, 3).T)] = True
        self._known = binary_dilation(self._known, np.ones((3, 3, 3)), iterations=1)

    def measure(self, frame: Picture, box: Box) -> MouthShape:
        """The mouth of a frame, BGR."""
        points = self._points(frame, box)
        strip = self._strip(frame, box, STRIP)
        new = ~self._known[tuple((strip // BIN).reshape(-1, 3).T)]
        scale = 100 / self.eyes
        return MouthShape(
            inner_lips(points) * scale - self.rest,
            distance(points, CORNERS) * scale,
            float(new.mean()) * len(strip) * scale,
        )

    def _points(self, frame: Picture, box: Box) -> Points:
        x, y, size = box
        dx, dy, side, turn = self._place
        return self._mesh.points(frame, Region(x + dx * size, y + dy * size, side * size, turn))[0]

    def _strip(self, frame: Picture, box: Box, half: float) -> Picture:
        """Lab colours from under the nose to under the lower lip, in the middle of the mouth."""
        x, y, size = box
        middle, _, width = self.lips
        left, right = (round(x + (middle + way * half * width) * size) for way in (-1, 1))
        top, bottom = (round(y + row * size) for row in self._rows)
        part = np.ascontiguousarray(frame[top:bottom, left:right])
        return np.asarray(cv2.cvtColor(part, cv2.COLOR_BGR2LAB), np.uint8)
