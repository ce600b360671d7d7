"""Inputs of the preparation: videos, and datasets with crop boxes of their own (see `dataset.py`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipsync_mel.timeline import SAMPLES_PER_FRAME
from lipsync_server.repository.source import Picture, SourceError
from lipsync_studio.prepare.dataset import Box, is_dataset, read_dataset
from lipsync_studio.prepare.video import (
    colours_finding,
    even,
    frame_estimate,
    frames_of,
    refuse_picture,
    sound_of,
    track_finding,
)


class Video:
    """A video file. `boxes` is None: it has no crop boxes yet."""

    boxes: list[Box] | None = None

    def __init__(self, path: Path) -> None:
        refuse_picture(path)
        self.path = path
        self.count = frame_estimate(path)

    def frames(self) -> Iterator[Picture]:
        """The frames: BGR UINT8 [height,width,3], 25 a second."""
        return frames_of(self.path)

    def sound(self, frames: int, late: float) -> NDArray[np.float32]:
        """See `sound_of`."""
        return sound_of(self.path, frames, late)

    def findings(self) -> list[str]:
        """Sentences on what is wrong with the file itself."""
        found = (track_finding(self.path), colours_finding(self.path))
        return [f"{self.path.name}: {sentence}" for sentence in found if sentence]


class Folder:
    """A dataset folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = read_dataset(path)
        self.boxes: list[Box] | None = self._data.boxes
        self.count: int | None = len(self._data.boxes)

    def frames(self) -> Iterator[Picture]:
        """The frames: BGR UINT8 [height,width,3], with even width and height."""
        return map(even, self._data.frames())

    def sound(self, frames: int, late: float) -> NDArray[np.float32]:
        source = self._data.sound or self._data.video
        return sound_of(source, frames, late) if source else np.zeros(frames * SAMPLES_PER_FRAME, np.float32)

    def findings(self) -> list[str]:
        """Findings if boxes were paired by order, or if the audio features do not have the pictures' length."""
        found = []
        if self._data.by_order:
            found.append(
                f"{self.path}: pictures and crop boxes are numbered from different numbers. They are as many, so they "
                "were paired by their order: check in preview.png that the boxes fit"
            )
        rows = len(np.load(self._data.rows, mmap_mode="r")) if self._data.rows else None
        frames = len(self._data.boxes)
        if rows is None or abs(rows - frames) <= 2 * 25:
            return found
        return [
            *found,
            f"{self.path}: aud_ave.npy has {rows} rows, but there are {frames} frames. They are not of the same clip",
        ]


Input = Video | Folder


def open_input(path: Path) -> Input:
    """A video or a dataset.

    Raises:
        SourceError: the path is neither.
    """
    if is_dataset(path):
        return Folder(path)
    if path.is_dir():
        raise SourceError(f"{path} is a folder without crop boxes: give a video, or a SyncTalk_2D dataset")
    return Video(path)


def fingerprint(source: Input) -> str:
    """A hash of the input's path, size and time of change."""
    stat = source.path.stat()
    facts = f"{source.path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    return hashlib.sha256(facts.encode()).hexdigest()[:12]


def clip_names(paths: list[Path]) -> list[str]:
    """A folder name for each input: its own name, numbered where two are the same."""
    names: list[str] = []
    for path in paths:
        stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in path.resolve().stem) or "clip"
        name, number = stem, 2
        while name in names:
            name, number = f"{stem}-{number}", number + 1
        names.append(name)
    return names
