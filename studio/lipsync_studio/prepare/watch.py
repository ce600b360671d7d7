"""Looking through one clip: landmarks, boxes and face crops of every frame; an interruption loses nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_server.repository.source import Picture, SourceError, face_crop
from lipsync_studio.faces.finder import FaceFinder, Seen
from lipsync_studio.prepare.boxes import raw_boxes, smooth_boxes
from lipsync_studio.prepare.checks import usable_frames
from lipsync_studio.prepare.inputs import Input, key_of
from lipsync_studio.prepare.loop import SIDE, look
from lipsync_studio.prepare.training_folder import Clip, Frames, crop_file, write_frames

RECORD = 1 + 468 * 2  # FP32: number of faces, landmarks
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
Advance = Callable[[], object]  # called after each frame


def watch(source: Input, folder: Path, finder: FaceFinder, advance: Advance) -> Clip:
    """Write everything of a clip's pictures; at once if that was done before.

    Args:
        folder: the clip's. What was seen is kept beside it, frame by frame, until all is done.

    Raises:
        SourceError: it cannot be read.
    """
    key = folder / f"source-{key_of(source)}"
    if key.exists():
        return Clip(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    notes = folder.parent / f".{folder.name}-{key.name}.seen"
    seen = _see_all(source, notes, finder, advance)
    faces, points = seen[:, 0].astype(np.int64), seen[:, 1:].reshape(-1, 468, 2)
    boxes = smooth_boxes(raw_boxes(points)) if source.boxes is None else np.array(source.boxes, np.int64)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as parent:
        draft = Path(parent) / "draft"
        (draft / "crops").mkdir(parents=True)
        write_frames(draft, _crop_all(source, draft, Frames(boxes, points, faces, *_unknown(len(boxes))), advance))
        (draft / key.name).touch()
        if folder.exists():
            folder.rename(Path(parent) / "old")
        draft.rename(folder)
    notes.unlink()
    return Clip(folder)


def _see_all(source: Input, notes: Path, finder: FaceFinder, advance: Advance) -> NDArray[np.float32]:
    """Faces and landmarks of each frame, [n,RECORD]; `notes` holds those of the frames that were seen before."""
    known = np.fromfile(notes, np.float32) if notes.exists() else np.zeros(0, np.float32)
    known = known[: len(known) // RECORD * RECORD].reshape(-1, RECORD)  # less a record that was cut when stopped
    known.tofile(notes)
    rows = [known]
    with notes.open("ab") as file:
        for number, picture in enumerate(source.frames()):
            if number >= len(known):
                rows.append(_record(finder.see(picture)))
                rows[-1].tofile(file)
            advance()
    seen = np.concatenate(rows)
    if not len(seen):
        raise SourceError(f"{source.path} has no frames")
    return seen


def _record(seen: Seen) -> NDArray[np.float32]:
    points = np.full((468, 2), np.nan) if seen.points is None else seen.points
    return np.concatenate([[seen.faces], points.ravel()]).astype(np.float32)[None]


def _unknown(count: int) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.int64]]:
    return np.zeros(count, bool), np.full((count, SIDE * SIDE + 3), np.nan, np.float32), np.zeros(2, np.int64)


def _crop_all(source: Input, draft: Path, frames: Frames, advance: Advance) -> Frames:
    """Write the crops; the frames with what is only known when they are seen again."""
    usable, looks, size = frames.usable, frames.looks, frames.size
    for number, picture in enumerate(source.frames()):
        if not number:
            size = np.array(picture.shape[1::-1])
            usable = usable_frames(frames.faces, frames.points, frames.boxes, size, source.boxes is not None)
        _same_size(source, number, picture, size)
        if usable[number]:
            box = tuple(frames.boxes[number].tolist())
            looks[number] = look(picture, box)
            cv2.imwrite(str(crop_file(draft, number)), face_crop(picture, box), JPEG)
        advance()
    return frames._replace(usable=usable, looks=looks, size=size)


def _same_size(source: Input, number: int, picture: Picture, size: NDArray[np.int64]) -> None:
    if picture.shape[1::-1] != tuple(size):
        raise SourceError(
            f"{source.path}: frame {number} is {picture.shape[1]} x {picture.shape[0]}, not {size[0]} x {size[1]}: "
            "all frames of a clip must have one size"
        )
