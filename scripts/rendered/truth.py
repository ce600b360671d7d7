"""The rendered avatar as it should look, for measuring it:

    PICTURES=WORK/pictures PYTHONPATH=scripts/rendered python scripts/evaluate_avatar.py demo --truth truth:open_truth

PICTURES is the folder that `render.py` wrote.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipsync_server.repository.source import AvatarSource, face_crop
from portrait import Portrait, pose_at


def open_truth(folder: Path) -> Callable[[int, NDArray[np.float32]], NDArray[np.uint8]]:
    """What gives the face crop, BGR uint8 [320,320,3], of a footage frame with the mouth of seven curves.

    Args:
        folder: the avatar's source, whose footage `footage.py` wrote.
    """
    source = AvatarSource.read(folder)
    boxes, portrait = source.read_boxes(), Portrait(Path(os.environ["PICTURES"]))
    frames = list(source.frames())

    def truth(frame: int, curves: NDArray[np.float32]) -> NDArray[np.uint8]:
        x, y, size = boxes[frame]
        inside = (slice(y, y + size), slice(x, x + size))
        across, down = portrait.motion(pose_at(frame))
        motion = across[inside], down[inside]
        return face_crop(portrait.speaking(frames[frame][inside], motion, portrait.nearest(curves)), (0, 0, size))

    return truth
