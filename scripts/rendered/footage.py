"""Writes the rendered avatar's footage.mp4 and boxes.csv.

python scripts/rendered/footage.py PICTURES avatars/demo
"""

from __future__ import annotations

import argparse
import csv
from fractions import Fraction
from pathlib import Path

import av
from rich.progress import track

from framing import HEIGHT, WIDTH
from portrait import FPS, FRAMES, Frame, Portrait, pose_at


def read_footage(folder: Path) -> tuple[list[Frame], list[tuple[int, int, int]]]:
    """The frames (BGR uint8) and crop boxes that `main` wrote."""
    with av.open(folder / "footage.mp4") as file:
        frames = [frame.to_ndarray(format="bgr24") for frame in file.decode(video=0)]
    with (folder / "boxes.csv").open() as table:
        boxes = [(int(row["x"]), int(row["y"]), int(row["size"])) for row in csv.DictReader(table)]
    return frames, boxes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="the folder that render.py wrote")
    parser.add_argument("avatar", type=Path)
    options = parser.parse_args()
    options.avatar.mkdir(parents=True, exist_ok=True)
    portrait = Portrait(options.pictures)
    partial = options.avatar / "footage.partial.mp4"  # whole or not at all
    with av.open(partial, "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "14", "preset": "slow"}
        for number in track(range(FRAMES), description="footage"):
            picture = portrait.frame(pose_at(number))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        file.mux(stream.encode())
    partial.replace(options.avatar / "footage.mp4")
    with (options.avatar / "boxes.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["x", "y", "size"])
        rows.writerows(portrait.box(pose_at(number)) for number in range(FRAMES))


if __name__ == "__main__":
    main()
