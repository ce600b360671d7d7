"""Face landmarks: MediaPipe's face mesh, run by LiteRT.

The network is `face_landmark.tflite` (Apache-2.0) from MediaPipe's wheel. pip downloads the wheel once, and the file is
kept in the cache folder. The wheel cannot be installed beside this project, which needs a newer protobuf.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_studio.faces import downloaded_file

WHEEL = "mediapipe==0.10.21"
MEMBER = "mediapipe/modules/face_landmark/face_landmark.tflite"
SIDE = 192  # pixels of the network's input
MARGIN = 1.5  # the region's side relative to the face, as in MediaPipe
FACE = 3.0  # logit of "there is a face" from which the landmarks are reliable (95 %)

# Points of the face mesh (MediaPipe's canonical face model).
EYES = (33, 263)  # outer corners
CORNERS = (61, 291)  # of the mouth
INNER_LIPS = ((81, 178), (82, 87), (13, 14), (312, 317), (311, 402))  # upper, lower, across the opening's middle
UNDER_NOSE, UNDER_LIP = 164, 17

Points = NDArray[np.float64]  # [468,2], pixels of the picture


class Region(NamedTuple):
    """The square of a picture that is the network's input: centre, side in pixels, rotation in degrees."""

    x: float
    y: float
    side: float
    turn: float


def region_of(points: Points) -> Region:
    """The region around a face with these landmarks."""
    low, high = points.min(0), points.max(0)
    centre, eyes = (low + high) / 2, points[EYES[1]] - points[EYES[0]]
    turn = float(np.degrees(np.arctan2(eyes[1], eyes[0])))
    return Region(float(centre[0]), float(centre[1]), MARGIN * float((high - low).max()), turn)


def cached_file() -> Path:
    """The network's file in the cache folder."""
    return downloaded_file.cached_file(MEMBER)


class FaceMesh:
    """The landmark network.

    Raises:
        DownloadError: its file could not be downloaded.
    """

    def __init__(self) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._network = Interpreter(str(downloaded_file.wheel_file(WHEEL, MEMBER)), num_threads=1)
        self._network.allocate_tensors()
        self._input = self._network.get_input_details()[0]["index"]
        outputs = {int(np.prod(one["shape"])): one["index"] for one in self._network.get_output_details()}
        self._points, self._score = outputs[468 * 3], outputs[1]

    def points(self, picture: NDArray[np.uint8], region: Region) -> tuple[Points, float]:
        """Landmarks of the face in a region of a BGR picture, and the logit of its being a face."""
        matrix: Any = cv2.getRotationMatrix2D((region.x, region.y), region.turn, SIDE / region.side)
        matrix[:, 2] += SIDE / 2 - np.array([region.x, region.y])
        face = cv2.warpAffine(picture, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
        self._network.set_tensor(self._input, face[None, ..., ::-1].astype(np.float32) / 255)
        self._network.invoke()
        flat: Any = self._network.get_tensor(self._points).reshape(-1, 3)[:, :2].astype(float)
        back = cv2.invertAffineTransform(matrix)
        return flat @ back[:, :2].T + back[:, 2], float(self._network.get_tensor(self._score).item())

    def find(self, picture: NDArray[np.uint8], box: tuple[int, int, int]) -> tuple[Points, Region]:
        """Landmarks and region of the face in a crop box (x, y, size).

        Raises:
            ValueError: there is no face.
        """
        x, y, size = box
        region, score = Region(x + size / 2, y + size / 4, 1.9 * size, 0.0), 0.0
        for _ in range(3):
            points, score = self.points(picture, region)
            region = region_of(points)
        if score < FACE:
            raise ValueError(f"no face found at the crop box {box}: logit {score:.1f}, needed {FACE}")
        return points, region


def distance(points: Points, pair: tuple[int, int]) -> float:
    """Distance of two landmarks, pixels."""
    return float(np.linalg.norm(points[pair[0]] - points[pair[1]]))


def inner_lips(points: Points) -> float:
    """Distance of the lips' inner edges, mean over the middle of the mouth, pixels."""
    return float(np.mean([distance(points, pair) for pair in INNER_LIPS]))
