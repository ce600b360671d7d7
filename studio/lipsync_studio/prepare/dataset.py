"""Datasets: folders with frames and their crop boxes, of SyncTalk_2D or packed from one.

| folder | frames | boxes |
|---|---|---|
| a SyncTalk_2D dataset | full_body_img/0.jpg, 1.jpg, .. | landmarks/0.lms, ..: 110 points |
| a packed one | full_body_img/ or frames/, or full_body_video.mp4 | crop_rects.json, or cache/crop_rectangles.json |
| this project's | footage.mp4 | boxes.csv |
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from lipsync_client.media.input_file import ffmpeg_name
from lipsync_server.repository.source import Picture, SourceError
from lipsync_studio.prepare.frame_ranges import frame_ranges

Box = tuple[int, int, int]  # x, y, size
LEFT, BRIDGE, RIGHT, POINTS = 1, 52, 31, 110  # landmarks that make the box, and how many there are (PFLD's order)
PICTURES, VIDEOS = ("full_body_img", "frames"), ("full_body_video.mp4", "footage.mp4")
RECTS = ("crop_rects.json", "cache/crop_rectangles.json")
SOUNDS = ("aud.wav", "audio.wav")


@dataclass(frozen=True)
class Dataset:
    """Frames with their crop boxes.

    Attributes:
        boxes: x, y, size of each frame.
        pictures: the frames' files in order; empty if the frames are in `video`.
        sound: the file with the speech of these frames, if there is one.
        rows: `aud_ave.npy`, the audio features of SyncTalk_2D's own encoder, if the folder has it.
        by_order: pictures and boxes are numbered from different numbers, so they were paired by their order.
    """

    folder: Path
    boxes: list[Box]
    pictures: tuple[Path, ...] = ()
    video: Path | None = None
    sound: Path | None = None
    rows: Path | None = None
    by_order: bool = False

    def frames(self, first: int = 0, count: int | None = None) -> Iterator[Picture]:
        """Some frames, or all that have a box: BGR UINT8 [height,width,3].

        Raises:
            SourceError: a picture cannot be read, or the video is shorter than its list of boxes.
        """
        stop = len(self.boxes) if count is None else first + count
        if self.video is None:
            for path in self.pictures[first:stop]:
                yield _read_picture(path)
            return
        number = -1
        with av.open(ffmpeg_name(self.video)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number >= stop:
                    return
                if number >= first:
                    yield frame.to_ndarray(format="bgr24")
        if number + 1 < stop:
            raise SourceError(
                f"{self.video} has {number + 1} frames, but there are {len(self.boxes)} crop boxes for it"
            )


def is_dataset(folder: Path) -> bool:
    """Whether a folder looks like a dataset."""
    return folder.is_dir() and any((folder / name).exists() for name in (*RECTS, "landmarks", "boxes.csv"))


def read_dataset(folder: Path) -> Dataset:
    """Find the frames and boxes of a folder.

    Raises:
        SourceError: something is missing or inconsistent; the message says what.
    """
    if not folder.is_dir():
        raise SourceError(
            f"{folder} is not a folder: give a SyncTalk_2D dataset (full_body_img, landmarks) or a packed one"
        )
    sound = next((folder / name for name in SOUNDS if (folder / name).is_file()), None)
    rows = folder / "aud_ave.npy" if (folder / "aud_ave.npy").is_file() else None
    pictures = next((_numbered(folder / n, (".jpg", ".jpeg", ".png")) for n in PICTURES if (folder / n).is_dir()), {})
    video = None if pictures else next((folder / n for n in VIDEOS if (folder / n).is_file()), None)
    if not pictures and video is None:
        raise SourceError(f"{folder} has no frames: there must be {' or '.join((*PICTURES, *VIDEOS))}")
    boxes = _boxes_of(folder)
    if not boxes:
        raise SourceError(
            f"{folder} has no crop boxes: there must be landmarks/*.lms, {' or '.join(RECTS)} or boxes.csv"
        )
    by_order = bool(pictures) and len(pictures) == len(boxes) and min(pictures) != min(boxes)
    if by_order:  # published packages number pictures from 1 and boxes from 0
        boxes = dict(zip(sorted(pictures), (boxes[number] for number in sorted(boxes)), strict=True))
    count = len(pictures) or len(boxes)
    numbers = sorted(pictures) or sorted(boxes)
    missing = [number for number in numbers if number not in boxes]
    if missing and missing[0] < max(boxes):  # frames after the last box are left out; a gap is an error
        raise SourceError(f"{folder}: {frame_ranges(missing)} of {count} have no crop box")
    numbers = [number for number in numbers if number in boxes]
    if not numbers:
        raise SourceError(
            f"{folder}: no frame has a crop box: frames are numbered from {min(pictures)}, boxes from {min(boxes)}"
        )
    return Dataset(
        folder,
        [boxes[number] for number in numbers],
        tuple(pictures[number] for number in numbers) if pictures else (),
        video,
        sound,
        rows,
        by_order,
    )


def _boxes_of(folder: Path) -> dict[int, Box]:
    """Crop boxes by frame number."""
    if (folder / "boxes.csv").is_file():
        with (folder / "boxes.csv").open(newline="") as file:
            try:
                rows = [(int(row["x"]), int(row["y"]), int(row["size"])) for row in csv.DictReader(file)]
            except (KeyError, TypeError, ValueError) as error:
                raise SourceError(f"{folder / 'boxes.csv'} must have the columns x,y,size: {error!r}") from None
        return dict(enumerate(rows))
    for name in RECTS:
        if (folder / name).is_file():
            return _read_rects(folder / name)
    return {number: box_of_landmarks(path) for number, path in _numbered(folder / "landmarks", (".lms",)).items()}


def box_of_landmarks(path: Path) -> Box:
    """The crop box of a .lms file, as the reference computes it: from coordinates truncated to whole pixels.

    Raises:
        SourceError: the file does not have 110 points.
    """
    try:
        points = np.loadtxt(path, dtype=np.float32, ndmin=2)
    except ValueError:
        points = np.zeros((0, 0), np.float32)
    if points.shape != (POINTS, 2):
        raise SourceError(f"{path} must hold {POINTS} lines `x y`, one for each landmark in PFLD's order")
    whole = points.astype(np.int32)
    return int(whole[LEFT, 0]), int(whole[BRIDGE, 1]), int(whole[RIGHT, 0] - whole[LEFT, 0])


def _read_rects(path: Path) -> dict[int, Box]:
    """Boxes of a JSON list or dictionary whose entries are [x1, y1, x2, y2] or {"rect": [..]}."""
    try:
        stated: Any = json.loads(path.read_text())
    except ValueError as error:
        raise SourceError(f"{path} is not JSON: {error}") from None
    if isinstance(stated, dict) and isinstance(stated.get("rects", None), list):
        stated = stated["rects"]
    try:
        entries = enumerate(stated) if isinstance(stated, list) else ((int(k), v) for k, v in stated.items())
        return {number: _square(path, number, entry) for number, entry in entries}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise SourceError(f"{path} must list [x1, y1, x2, y2] or {{'rect': [..]}} for each frame: {error!r}") from None


def _square(path: Path, number: int, entry: Any) -> Box:
    left, top, right, bottom = (int(v) for v in (entry["rect"] if isinstance(entry, dict) else entry))
    if right - left != bottom - top:
        raise SourceError(
            f"{path}: frame {number} has a box of {right - left} x {bottom - top} pixels; crop boxes are square"
        )
    return left, top, right - left


def _numbered(folder: Path, endings: tuple[str, ...]) -> dict[int, Path]:
    """Files by the number in their name: 0.jpg, frame_0000.png, .."""
    result = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        digits = re.findall(r"\d+", path.stem)
        if path.suffix.lower() in endings and digits:
            result[int(digits[-1])] = path
    return result


def _read_picture(path: Path) -> Picture:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise SourceError(f"{path} cannot be read as a picture")
    return np.asarray(picture, np.uint8)
