"""The source of an avatar: a folder with avatar.yaml, footage, crop boxes and the plain network."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnx
import yaml
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from lipsync_client.errors import LipsyncError
from lipsync_client.media.input_file import ffmpeg_name
from lipsync_composite.geometry import CROP, MARGIN

Picture = NDArray[np.uint8]


class SourceError(LipsyncError):
    """An avatar's source is incomplete or contradicts itself; the message names the file."""


@dataclass(frozen=True)
class AvatarSource:
    """What avatar.yaml states. Paths are relative to its folder."""

    folder: Path
    id: str
    name: str
    licence: str
    provenance: str
    footage: str  # video, 25 fps
    boxes: str  # CSV x,y,size: the square crop box of each footage frame, in pixels
    unet: str  # ONNX: input, audio -> output
    loop: str = "forward"  # or pingpong
    mask: tuple[int, int, int, int] = (5, 5, 310, 305)  # x, y, width, height in the 320 crop, hidden from the network
    blend: str = "soft"  # or reference
    jpeg_quality: int = 75
    encoder: str | None = None  # ONNX: mel -> features; the shared audio encoder if not stated
    head: str | None = None  # ONNX: half, crop -> output; for the preset turbo
    preset: str | None = None  # turbo, low, medium, high or exact; by the network's width if not stated

    @classmethod
    def read(cls, folder: Path) -> AvatarSource:
        """Read and check avatar.yaml.

        Raises:
            SourceError: a missing file, an unknown or missing key, a value of another kind.
        """
        path = folder / "avatar.yaml"
        stated = read_facts(path)
        missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in stated]
        if missing != ["folder"]:
            raise SourceError(f"{path} lacks {', '.join(missing[1:])}")
        source = cls(folder=folder, **stated | {"mask": tuple(stated.get("mask", cls.mask))})
        if not (folder / source.unet).is_file():
            raise SourceError(
                f"{folder} has no network {source.unet} yet: train it (`lipsync avatars train work/{source.id}`, with "
                "the folder that `prepare` named)"
            )
        for name in (source.footage, source.boxes, source.encoder, source.head):
            if name and not (folder / name).is_file():
                raise SourceError(f"{folder / name} is missing: {path.name} names it")
        return source

    def network(self, name: str) -> onnx.ModelProto:
        """One of its networks, with its weights. Raises SourceError: it, or a file that it names, cannot be read."""
        path = self.folder / name
        try:
            return onnx.load(path)
        except (OSError, ValueError, DecodeError, onnx.checker.ValidationError) as error:
            raise SourceError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from None

    def read_boxes(self) -> list[tuple[int, int, int]]:
        """x, y, size of each footage frame."""
        path = self.folder / self.boxes
        with path.open(newline="") as file:
            try:
                return [(int(row["x"]), int(row["y"]), int(row["size"])) for row in csv.DictReader(file)]
            except (KeyError, TypeError, ValueError) as error:
                raise SourceError(f"{path} must have the columns x,y,size with whole numbers: {error!r}") from None

    def frames(self) -> Iterator[Picture]:
        """The footage, BGR UINT8 [height, width, 3], one frame at a time."""
        with av.open(ffmpeg_name(self.folder / self.footage)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="bgr24")


def read_facts(path: Path) -> dict[str, Any]:
    """What an avatar.yaml states, known keys with values of the right kind.

    Raises:
        SourceError: it states anything else, or there is no such file.
    """
    try:
        stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(_without_facts(path)) from None
    except yaml.YAMLError as error:
        raise SourceError(f"{path} is not YAML: {error}") from None
    known = {field.name for field in fields(AvatarSource)} - {"folder"}
    if not isinstance(stated, dict) or not stated.keys() <= known:
        extra = sorted(stated.keys() - known, key=str) if isinstance(stated, dict) else stated
        raise SourceError(f"{path} has unknown keys {extra}; known are {sorted(known)}")
    for key, value in stated.items():
        _check_kind(path, key, value)
    return stated


def _without_facts(path: Path) -> str:
    """Why a folder without avatar.yaml is no avatar's source folder."""
    folder = path.parent
    if (folder / "prepared.yaml").is_file():
        return f"{folder} is a training folder: give the avatar's own, such as avatars/{folder.name}"
    if found := sorted(one.parent.name for one in folder.glob("*/avatar.yaml")):
        return f"{folder} holds several folders: give one of them, such as {folder / found[0]}"
    return f"{path} is missing: an avatar's source folder needs one"


def _check_kind(path: Path, key: str, value: object) -> None:
    if key == "mask":
        fits, wanted = isinstance(value, list) and [type(v) for v in value] == [int] * 4, "four whole numbers in [ ]"
    elif key == "jpeg_quality":
        fits, wanted = type(value) is int, "a whole number"
    else:
        fits, wanted = isinstance(value, str), "text, in quotes if it looks like a number"
    if not fits and not (value is None and key in ("encoder", "head", "preset")):
        raise SourceError(f"{path}: {key} is {value!r}: it must be {wanted}")


def face_crop(frame: Picture, box: tuple[int, int, int]) -> Picture:
    """What the network sees of a frame: the box at 328x328 (cubic), its inside: BGR UINT8 [320,320,3]."""
    x, y, size = box
    crop = cv2.resize(frame[y : y + size, x : x + size], (CROP, CROP), interpolation=cv2.INTER_CUBIC)
    return crop[MARGIN:-MARGIN, MARGIN:-MARGIN].astype(np.uint8, copy=False)
