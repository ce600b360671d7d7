"""A SyncTalk_2D dataset for tests: frames with detail at every scale, and landmarks that make a drifting box."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

FRAMES, BOX = 6, (70, 40, 131)


def picture(number: int) -> np.ndarray:
    """240x320, with detail at every scale, moving."""
    y, x = np.mgrid[:240, :320].astype(np.float32)
    waves = [np.sin((x * a + y * b + 9 * number) / 7) for a, b in ((1, 0.3), (0.2, 1), (2.5, 1.9))]
    return (127 + 100 * np.stack(waves, -1)).astype(np.uint8)


def write_dataset(folder: Path, frames: int = FRAMES) -> Path:
    """A SyncTalk_2D dataset: JPEGs, and 110 landmarks of which three make the box. It drifts a pixel a frame."""
    (folder / "full_body_img").mkdir(parents=True)
    (folder / "landmarks").mkdir()
    for number in range(frames):
        cv2.imwrite(str(folder / "full_body_img" / f"{number}.jpg"), picture(number), [cv2.IMWRITE_JPEG_QUALITY, 95])
        points = np.full((110, 2), 5.0)
        points[1], points[52], points[31] = (
            (BOX[0] + number + 0.9, 1),
            (3, BOX[1] + 0.7),
            (BOX[0] + number + BOX[2] + 0.2, 2),
        )
        np.savetxt(folder / "landmarks" / f"{number}.lms", points, fmt="%.2f")
    return folder
