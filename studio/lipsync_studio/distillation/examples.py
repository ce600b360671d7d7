"""Training examples of a head, made once and kept in files: a training that is continued has the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipsync_studio.distillation.teacher import Shown, Teacher
from lipsync_studio.training.runs import Stop, steps_with_progress

EXAMPLES = 1200
PART = 60  # examples in a file: what a stop loses at most


class Batch(NamedTuple):
    """What a head is given and must draw, in the window: half [N,c,h,w], crop [N,3,2h,2w], target [N,3,2h,2w]."""

    half: Tensor
    crop: Tensor
    target: Tensor


class Examples:
    """Random pairs of a footage frame and a frame of speech. They stay in files, mapped: memory holds only the crops.

    Args:
        folder: of the files; those that are there are used.
        teacher: makes what is missing.
        crops: UINT8 [n,320,320,3], the footage's face crops, BGR.
        audio: FP32 [m,32,16,16], the speech's audio features.
        region: what is kept of each example.
        count: how many.
    """

    def __init__(
        self,
        folder: Path,
        teacher: Teacher,
        crops: NDArray[np.uint8],
        audio: NDArray[np.float32],
        region: Shown,
        count: int,
    ) -> None:
        self._folder, self._teacher, self.region, self.count = folder, teacher, region, count
        self._crops, self._audio = crops, audio
        places = np.random.default_rng(0).random((count, 2))  # so that an example's crop depends on the crops alone
        self._pairs = (places * (len(crops), len(audio))).astype(np.int64)
        self._parts: list[tuple[NDArray[np.float16], NDArray[np.uint8]]] = []

    def make(self, stop: Stop) -> bool:
        """Make the missing files. Returns false if it was stopped before the last one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        total = -(-self.count // PART)
        have = 0
        while have < total and self._path(have).exists():
            have += 1
        made: list[tuple[NDArray[np.float16], NDArray[np.uint8]]] = []
        done = min(have * PART, self.count)
        for number in steps_with_progress(done, self.count, {}, stop, "examples"):
            made.append(self._made(*self._pairs[number]))
            if len(made) == PART or number == self.count - 1:
                self._write(number // PART, made)
                made = []
        if not all(self._path(part).exists() for part in range(total)):
            return False
        self._parts = [self._opened(part) for part in range(total)]
        return True

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        """Some examples."""
        rows, columns = self.region.window
        chosen = [(self._parts[number // PART], number % PART) for number in numbers.tolist()]
        half = np.stack([part[0][at] for part, at in chosen]).astype(np.float32)
        target = np.stack([part[1][at] for part, at in chosen]).astype(np.float32) / 255
        crop = self._crops[self._pairs[numbers, 0]][:, rows, columns].transpose(0, 3, 1, 2).astype(np.float32) / 255
        return Batch(*(torch.from_numpy(x).contiguous(memory_format=torch.channels_last) for x in (half, crop, target)))

    def remove(self) -> None:
        """Delete the files."""
        self._parts = []
        for path in self._files():
            path.unlink()

    def _files(self) -> Iterator[Path]:
        yield from (*self._folder.glob("half-*.npy"), *self._folder.glob("target-*.npy"))

    def _made(self, crop: int, audio: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        inputs = self._crops[crop], self._audio[audio]
        (rows, columns), (half_rows, half_columns) = self.region.window, self.region.half
        half = self._teacher.half(*inputs)[:, half_rows, half_columns]
        target = self._teacher.output(*inputs)[:, rows, columns]
        return half.astype(np.float16), np.round(target * 255).astype(np.uint8)

    def _path(self, part: int) -> Path:
        """The file of a part that is written last."""
        return self._folder / f"target-{part:03d}.npy"

    def _write(self, part: int, made: list[tuple[NDArray[np.float16], NDArray[np.uint8]]]) -> None:
        path = self._path(part)
        draft = path.with_suffix(".partial")
        np.save(self._folder / f"half-{part:03d}.npy", np.stack([half for half, _ in made]))
        with draft.open("wb") as file:
            np.save(file, np.stack([target for _, target in made]))
        draft.replace(path)

    def _opened(self, part: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        half = np.load(self._folder / f"half-{part:03d}.npy", mmap_mode="r")
        return half, np.load(self._path(part), mmap_mode="r")
