"""The drawn avatar as it should look: `evaluate_avatar.py demo --truth evaluation.drawn_truth:open_truth`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from avatar_source import AvatarSource, face_crop
from drawn.draw_avatar import Portrait, pose_at


def open_truth(folder: Path) -> Callable[[int, NDArray[np.float32]], NDArray[np.uint8]]:
    """What draws the face crop, BGR uint8 [320,320,3], of a footage frame with the mouth of seven curves.

    Args:
        folder: the drawn avatar's source.
    """
    boxes, portrait = AvatarSource.read(folder).read_boxes(), Portrait()

    def truth(frame: int, curves: NDArray[np.float32]) -> NDArray[np.uint8]:
        x, y, size = boxes[frame]
        drawn = portrait.draw(pose_at(frame), curves, (x, y, size, size))
        return face_crop(drawn, (0, 0, size))

    return truth
