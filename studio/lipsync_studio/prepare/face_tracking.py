"""Face tracking: landmarks, crop boxes and face crops of every frame of one clip. An interrupted run continues."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_server.repository.source import Picture, SourceError, face_crop
from lipsync_studio.faces.finder import Detection, FaceFinder
from lipsync_studio.prepare.checks import usable_frames
from lipsync_studio.prepare.crop_boxes import raw_boxes, smooth_boxes
from lipsync_studio.prepare.idle_loop import SIDE, look
from lipsync_studio.prepare.inputs import Input, fingerprint
from lipsync_studio.prepare.training_folder import Clip, Frames, crop_file, write_frames

RECORD = 1 + 468 * 2  # FP32: number of faces, landmarks
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
Advance = Callable[[], object]  # called after each frame


def track_faces(source: Input, folder: Path, finder: FaceFinder, advance: Advance) -> Clip:
    """Write frames.npz and the crops of a clip. If an earlier run did that for the same input, nothing is done.

    Args:
        folder: the clip's. Until all is done, the detections are kept in a file beside it, frame by frame.
        advance: called twice for each frame, after its detection and after its crop.

    Raises:
        SourceError: the input cannot be read.
    """
    key = folder / f"source-{fingerprint(source)}"
    if key.exists():
        return Clip(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    records = folder.parent / f".{folder.name}-{key.name}.detections"
    detected = _detect_all(source, records, finder, advance)
    faces, points = detected[:, 0].astype(np.int64), detected[:, 1:].reshape(-1, 468, 2)
    boxes = smooth_boxes(raw_boxes(points)) if source.boxes is None else np.array(source.boxes, np.int64)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as parent:
        draft = Path(parent) / "draft"
        (draft / "crops").mkdir(parents=True)
        write_frames(draft, _crop_all(source, draft, faces, points, boxes, advance))
        (draft / key.name).touch()
        if folder.exists():
            folder.rename(Path(parent) / "old")
        draft.rename(folder)
    records.unlink()
    return Clip(folder)


def _detect_all(source: Input, records: Path, finder: FaceFinder, advance: Advance) -> NDArray[np.float32]:
    """Faces and landmarks of each frame, [n,RECORD]. The file `records` has those of an interrupted run."""
    known = np.fromfile(records, np.float32) if records.exists() else np.zeros(0, np.float32)
    known = known[: len(known) // RECORD * RECORD].reshape(-1, RECORD)  # without an incomplete last record
    known.tofile(records)
    rows = [known]
    with records.open("ab") as file:
        for number, picture in enumerate(source.frames()):
            if number >= len(known):
                rows.append(_record(finder.detect(picture)))
                rows[-1].tofile(file)
            advance()
    detected = np.concatenate(rows)
    if not len(detected):
        raise SourceError(f"{source.path} has no frames")
    return detected


def _record(detection: Detection) -> NDArray[np.float32]:
    points = np.full((468, 2), np.nan) if detection.points is None else detection.points
    return np.asarray(np.concatenate([[detection.faces], points.ravel()])[None], np.float32)


def _crop_all(
    source: Input,
    draft: Path,
    faces: NDArray[np.int64],
    points: NDArray[np.float32],
    boxes: NDArray[np.int64],
    advance: Advance,
) -> Frames:
    """Write the crops of the usable frames."""
    usable, size = np.zeros(len(boxes), bool), np.zeros(2, np.int64)
    looks = np.full((len(boxes), SIDE * SIDE + 3), np.nan, np.float32)
    for number, picture in enumerate(source.frames()):
        if not number:
            size = np.array(picture.shape[1::-1])
            usable = usable_frames(faces, points, boxes, size, source.boxes is not None)
        _check_size(source, number, picture, size)
        if usable[number]:
            x, y, side = boxes[number].tolist()
            looks[number] = look(picture, (x, y, side))
            cv2.imwrite(str(crop_file(draft, number)), face_crop(picture, (x, y, side)), JPEG)
        advance()
    return Frames(boxes, points, faces, usable, looks, size)


def _check_size(source: Input, number: int, picture: Picture, size: NDArray[np.int64]) -> None:
    if picture.shape[1::-1] != tuple(size):
        raise SourceError(
            f"{source.path}: frame {number} is {picture.shape[1]} x {picture.shape[0]}, not {size[0]} x {size[1]}: "
            "all frames of a clip must have one size"
        )
