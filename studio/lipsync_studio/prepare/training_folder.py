"""The training folder: what `prepare_avatar.py` leaves for `train_avatar.py`, and how it is read.

    <folder>/                  work/<id> unless told otherwise
      prepared.yaml            id; clips: the names of the folders below, in the order given; findings: what is wrong
      preview.png              to be looked at
      clips/<name>/            one for each video or dataset; frame i of a clip is shown at i/25 s
        frames.npz             see `Frames`
        crops/00000.jpg, ..    `avatar_source.face_crop` of the usable frames, 320x320, named after the frame's number
        sound.wav              16 kHz, mono, 16 bit: sample 640*i belongs to frame i. Silence if the clip has no sound

The avatar's own folder, avatars/<id>, is what docs/avatars.md says; only `unet.onnx`, which training makes, is missing.
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
    """What is known of a clip's n frames. Coordinates are pixels of the upright frame."""

    boxes: NDArray[np.int64]  # [n,3]: x, y, size of the square crop box, smoothed
    points: NDArray[np.float32]  # [n,468,2]: landmarks of MediaPipe's face mesh; NaN where no face was found
    faces: NDArray[np.int64]  # [n]: how many faces of note
    usable: NDArray[np.bool_]  # [n]: one whole face, large enough. Only these have a crop
    looks: NDArray[np.float32]  # [n,k]: see `loop.look`
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
            SourceError: there is none.
        """
        path = crop_file(self.folder, frame)
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise SourceError(f"{path} is missing or no picture: prepare the avatar again")
        return np.asarray(picture, np.uint8)


def crop_file(folder: Path, frame: int) -> Path:
    return folder / "crops" / f"{frame:05}.jpg"


def read_clips(folder: Path) -> list[Clip]:
    """The clips of a training folder.

    Raises:
        SourceError: it is none, or its preparation was not finished.
    """
    path = folder / "prepared.yaml"
    if not path.is_file():
        raise SourceError(f"{path} is missing: run prepare_avatar.py, to its end")
    return [Clip(folder / "clips" / name) for name in yaml.safe_load(path.read_text(encoding="utf-8"))["clips"]]


def write_frames(folder: Path, frames: Frames) -> None:
    np.savez(folder / "frames.npz", **frames._asdict())


def write_sound(folder: Path, sound: NDArray[np.float32]) -> None:
    """See the module's table."""
    with wave.open(str(folder / "sound.wav"), "w") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((sound.clip(-1, 1) * 32767).astype("<i2").tobytes())
