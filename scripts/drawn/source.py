"""Examples of the drawn avatar: its footage at rest, and the same moment drawn with the mouth of some speech."""

from __future__ import annotations

import csv
from pathlib import Path

import av
import numpy as np
from rich.progress import track
from avatar_source import face_crop
from drawn.draw_avatar import Portrait, pose_at
from training.features import SpokenFrames
from training.unet_examples import Example, Places

MOMENTS = 3  # of speech for each face
PLACES = Places(
    mouth=(slice(116, 252), slice(80, 240)),
    chin=(slice(92, 288), slice(64, 256)),
    middle=(175.0, 160.0),
    reach=(55.0, 60.0),
)


def read_footage(folder: Path) -> tuple[list[np.ndarray], list[tuple[int, int, int]]]:
    """The frames (BGR uint8) and crop boxes of an avatar's footage."""
    with av.open(folder / "footage.mp4") as file:
        frames = [frame.to_ndarray(format="bgr24") for frame in file.decode(video=0)]
    with (folder / "boxes.csv").open() as table:
        boxes = [(int(row["x"]), int(row["y"]), int(row["size"])) for row in csv.DictReader(table)]
    if len(frames) != len(boxes):
        raise ValueError(f"{folder}: footage.mp4 has {len(frames)} frames, boxes.csv {len(boxes)} rows")
    return frames, boxes


class DrawnSource:
    """Moments of the footage with moments of speech. Implements `unet_examples.Source`.

    Drawing takes a quarter of a training step's time, so a stock of examples is drawn once and used again and again.

    Args:
        folder: the avatar's, with footage.mp4 and boxes.csv.
        stock: a file that keeps the drawings between runs.
        faces: how many examples the stock has, each with `MOMENTS` pictures.
    """

    places = PLACES

    def __init__(self, folder: Path, spoken: SpokenFrames, stock: Path, faces: int = 800) -> None:
        frames, self.boxes = read_footage(folder)
        self.rest = [face_crop(frame, box) for frame, box in zip(frames, self.boxes, strict=True)]
        self.spoken = spoken
        rng = np.random.default_rng(5)
        self.poses = rng.integers(len(self.rest), size=faces)
        self.moments = np.array([[spoken.pick(rng) for _ in range(MOMENTS)] for _ in range(faces)])
        if not stock.exists():
            self._draw_stock(stock)
        self.drawn = np.load(stock, mmap_mode="r")

    def _draw_stock(self, path: Path) -> None:
        portrait = Portrait()
        drawn = np.empty((*self.moments.shape, 320, 320, 3), np.uint8)
        for number, pose in enumerate(track(self.poses, description="drawing")):
            x, y, size = self.boxes[pose]
            for k, frame in enumerate(self.moments[number]):
                picture = portrait.draw(pose_at(int(pose)), self.spoken.curves[frame], (x, y, size, size))
                drawn[number, k] = face_crop(picture, (0, 0, size))
        np.save(path, drawn)

    def example(self, rng: np.random.Generator) -> Example:
        number = int(rng.integers(len(self.poses)))
        audio = np.stack([self.spoken.audio(frame) for frame in self.moments[number]])
        rest = self.rest[self.poses[number]]
        return Example(rest, rest, audio, np.array(self.drawn[number]))
