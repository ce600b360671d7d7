"""The training folder: the preparation writes it, the training reads it.

    <folder>/                  by default work/<id>
      prepared.yaml            id; clips: the names of the folders below, in the order given; findings: what is wrong
      preview.png              for a person to look at
      clips/<name>/            one for each video or dataset; frame i of a clip is shown at i/25 s
        frames.npz             see `Frames`
        crops/00000.jpg, ..    face crops of the usable frames, 320x320, named after the frame's number
        sound.wav              16 kHz, mono, 16 bit: sample 640*i is at frame i. Silence if the clip has no sound

The avatar's source folder, avatars/<id>, is described in docs/avatars.md. Its networks, unet.onnx and encoder.onnx,
come from the training.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from lipsync_mel.timeline import SAMPLE_RATE
from lipsync_server.repository.source import Picture, SourceError


class Frames(NamedTuple):
    """Boxes, landmarks and descriptors of a clip's n frames. Coordinates are pixels of the upright frame."""

    boxes: NDArray[np.int64]  # [n,3]: x, y, size of the square crop box, smoothed
    points: NDArray[np.float32]  # [n,468,2]: landmarks of MediaPipe's face mesh; NaN where no face was found
    faces: NDArray[np.int64]  # [n]: number of faces, without small ones in the background
    usable: NDArray[np.bool_]  # [n]: one whole face, large enough. Only these have a crop
    looks: NDArray[np.float32]  # [n,k]: see `idle_loop.look`; NaN where not usable
    size: NDArray[np.int64]  # [2]: width and height of the frames


@dataclass(frozen=True)
class Clip:
    """One clip of a training folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def frames(self) -> Frames:
        with np.load(self.folder / "frames.npz") as stored:
            return Frames(*(stored[name] for name in Frames._fields))

    @cached_property
    def sound(self) -> NDArray[np.float32]:
        """FP32 [640 * n] in [-1, 1]."""
        with wave.open(str(self.folder / "sound.wav")) as file:
            return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768

    def crop(self, frame: int) -> Picture:
        """The face crop of a usable frame, BGR UINT8 [320,320,3].

        Raises:
            SourceError: the file is missing or broken.
        """
        path = crop_file(self.folder, frame)
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise SourceError(f"{path} is missing or is not a picture: prepare the avatar again")
        return np.asarray(picture, np.uint8)


def crop_file(folder: Path, frame: int) -> Path:
    """The file of a frame's face crop in a clip's folder."""
    return folder / "crops" / f"{frame:05}.jpg"


def read_clips(folder: Path) -> list[Clip]:
    """The clips of a training folder.

    Raises:
        SourceError: it is not a training folder, or its preparation did not finish.
    """
    path = folder / "prepared.yaml"
    if not path.is_file():
        raise SourceError(f"{path} is missing: run lipsync avatars prepare until it is done")
    return [Clip(folder / "clips" / name) for name in yaml.safe_load(path.read_text(encoding="utf-8"))["clips"]]


def write_frames(folder: Path, frames: Frames) -> None:
    """Write a clip's frames.npz."""
    np.savez(folder / "frames.npz", **frames._asdict())


def write_sound(folder: Path, sound: NDArray[np.float32]) -> None:
    """Write a clip's sound.wav from FP32 samples at 16 kHz."""
    with wave.open(str(folder / "sound.wav"), "w") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((sound.clip(-1, 1) * 32767).astype("<i2").tobytes())
