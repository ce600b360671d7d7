"""Trains the rendered avatar's U-Net: any frame of its footage with any frame of speech.

    python scripts/rendered/train.py PICTURES AVATAR CORPUS ENCODER.pt WORK [--samples 20000] [--hold-out awb]

PICTURES comes from `render.py`; AVATAR has footage.mp4 and boxes.csv, from `footage.py`; for ENCODER.pt and WORK see
`lipsync_studio.training.unet_training`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.progress import track

from footage import read_footage
from lipsync_server.repository.source import face_crop
from lipsync_studio.corpus.features import SpokenFrames
from lipsync_studio.training import unet_training
from lipsync_studio.training.unet_examples import Example, FaceRegions
from portrait import FRAMES, Portrait, pose_at

SPOKEN_FRAMES = 3  # for each face
REGIONS = FaceRegions(
    mouth=(slice(88, 224), slice(80, 240)),
    chin=(slice(84, 280), slice(64, 256)),
    centre=(152.0, 160.0),
    radius=(60.0, 60.0),
    mask=(28, 56, 264, 244),  # as in avatars/demo/avatar.yaml: nose, most hair and the jumper stay the footage's own
)


class RenderedSource:
    """A `unet_examples.Source`: the portrait in any pose, with any rendered mouth."""

    regions = REGIONS

    def __init__(self, portrait: Portrait, avatar: Path, spoken: SpokenFrames) -> None:
        frames, self.boxes = read_footage(avatar)
        self.portrait, self.spoken = portrait, spoken
        self.parts, self.motions, self.rest = [], [], []
        for number in track(range(FRAMES), description="poses"):
            x, y, size = box = self.boxes[number]
            inside = (slice(y, y + size), slice(x, x + size))
            self.parts.append(frames[number][inside].copy())
            across, down = portrait.motion(pose_at(number))
            self.motions.append((across[inside].copy(), down[inside].copy()))
            self.rest.append(face_crop(frames[number], box))
        points = portrait.space.points(spoken.curves)
        self.mouths = np.empty(len(points), np.int64)  # the nearest rendering of every spoken frame
        for first in range(0, len(points), 2000):
            part = points[first : first + 2000]
            away = np.square(part[:, None] - portrait.state_points[None]).sum(2)
            self.mouths[first : first + 2000] = away.argmin(1)

    def example(self, rng: np.random.Generator) -> Example:
        return self.example_of([self.spoken.pick(rng) for _ in range(SPOKEN_FRAMES)], int(rng.integers(FRAMES)))

    def example_of(self, spoken: list[int], pose: int) -> Example:
        """The footage frame `pose` with the mouths of these spoken frames."""
        part, motion = self.parts[pose], self.motions[pose]
        pictures = [self.portrait.speaking(part, motion, int(self.mouths[frame])) for frame in spoken]
        targets = np.stack([face_crop(picture, (0, 0, len(part))) for picture in pictures])
        audio = np.stack([self.spoken.audio(frame) for frame in spoken])
        return Example(self.rest[pose], self.rest[pose], audio, targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("avatar", type=Path)
    unet_training.add_options(parser, samples=20000)
    options = parser.parse_args()
    unet_training.run(options, lambda frames: RenderedSource(Portrait(options.pictures), options.avatar, frames))


if __name__ == "__main__":
    main()
