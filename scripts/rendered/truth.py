"""Evaluates the demo avatar against the truth: pictures rendered with the mouth that the phonemes define.

    python scripts/rendered/truth.py PICTURES [--speech a.wav b.wav] [--out evaluation]

PICTURES is the folder that `render.py` wrote. The metrics: docs/evaluation.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipsync_server import home
from lipsync_server.pipeline import LocalPipeline
from lipsync_server.repository.source import AvatarSource, face_crop
from lipsync_studio.evaluation.evaluate import evaluate
from lipsync_studio.evaluation.metric_tables import as_markdown
from lipsync_studio.evaluation.recording import Truth
from portrait import Portrait, pose_at


def open_truth(folder: Path, pictures: Path) -> Truth:
    """Open the truth: a function that returns the face crop, BGR uint8 [320,320,3], of a frame and seven curves.

    Args:
        folder: the avatar's source, whose footage `footage.py` wrote.
        pictures: the folder that `render.py` wrote.
    """
    source = AvatarSource.read(folder)
    boxes, portrait = source.read_boxes(), Portrait(pictures)
    frames = list(source.frames())

    def truth(frame: int, curves: NDArray[np.float32]) -> NDArray[np.uint8]:
        x, y, size = boxes[frame]
        inside = (slice(y, y + size), slice(x, x + size))
        across, down = portrait.motion(pose_at(frame))
        motion = across[inside], down[inside]
        return face_crop(portrait.speaking(frames[frame][inside], motion, portrait.nearest(curves)), (0, 0, size))

    return truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--speech", type=Path, nargs="*", default=[], help="phonemes in a .json beside it are used")
    parser.add_argument("--out", type=Path, default=Path("evaluation"))
    options = parser.parse_args()
    truth = open_truth(home.AVATARS / "demo", options.pictures)
    found = evaluate(LocalPipeline(), options.speech, out=options.out, truth=truth)
    print(as_markdown(found.tables, found.avatar))


if __name__ == "__main__":
    main()
