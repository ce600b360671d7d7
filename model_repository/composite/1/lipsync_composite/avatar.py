"""Reads packed avatars, which `assets.py` writes, and makes their frames."""

from __future__ import annotations

import io
import json
import mmap
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipsync_composite.assets import FORMAT, Facts
from lipsync_composite.loop import footage_index
from lipsync_composite.paste import changed_rect, paste, scratch
from lipsync_composite.splice import Grid, Rect, splice

Picture = NDArray[np.uint8]


class AssetsError(Exception):
    """Packed assets are missing or broken; the message names the file."""


def _open_facts(path: Path) -> Facts:
    try:
        facts = Facts(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise AssetsError(f"{path} is missing: this is not a packed avatar") from None
    except (ValueError, TypeError) as error:
        raise AssetsError(f"{path} is broken: {error}") from error
    if facts.format != FORMAT:
        raise AssetsError(f"{path} has format {facts.format}, this server reads {FORMAT}: pack the avatar again")
    return facts


def _load(path: Path, crc: int) -> NDArray[Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise AssetsError(f"{path} is missing: pack the avatar again") from None
    if zlib.crc32(data) != crc:
        raise AssetsError(f"{path} is broken (its checksum differs): pack the avatar again")
    loaded: NDArray[Any] = np.load(io.BytesIO(data))
    return loaded


def _map(path: Path, size: int) -> memoryview:
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise AssetsError(f"{path} is missing: pack the avatar again") from None
    except ValueError:  # an empty file cannot be mapped
        data = memoryview(b"")
    if len(data) != size:
        raise AssetsError(f"{path} is broken: {len(data)} bytes instead of {size}: pack the avatar again")
    return data


class PackedAvatar:
    """A packed avatar, open for reading.

    Args:
        folder: written by `write_assets`.

    Raises:
        AssetsError: a file is missing, cut short or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.facts = _open_facts(folder / "avatar.json")
        self._index = _load(folder / "index.npy", self.facts.crc32["index.npy"])
        self._cuts = _load(folder / "cuts.npy", self.facts.crc32["cuts.npy"])
        self._footage = _map(folder / "footage.bin", self.facts.bytes["footage.bin"])
        self._pixels = _map(folder / "pixels.bin", self.facts.bytes["pixels.bin"])
        self._grid = Grid(self.facts.width, self.facts.height, self.facts.restart_interval)
        self._mask = Rect(*self.facts.mask)

    @classmethod
    def open(cls, folder: Path) -> PackedAvatar:
        """Open a folder. Nothing is decoded, and pixels are read only when they are needed."""
        return cls(Path(folder))

    def footage_jpeg(self, position: int) -> bytes:
        """The plain footage frame at a position >= 0 of the loop, as JPEG."""
        return bytes(self._jpeg(self._record(position)))

    def render(self, position: int, mouth: Picture) -> bytes:
        """The footage frame at a position >= 0 of the loop, with a mouth (BGR, shape = (320, 320, 3)), as JPEG.

        The bytes equal those of encoding the whole composited frame.
        """
        record = self._record(position)
        patch, picture = self._composited(record, mouth)
        first = int(record["cuts"])
        cuts = self._cuts[first : first + self._grid.rows(patch)].tolist()
        return splice(self._jpeg(record), cuts, self._grid, patch, picture, self.facts.quality)

    def composited(self, position: int, mouth: Picture) -> tuple[Rect, Picture]:
        """What `render` encodes: the patch, and its BGR pixels with the mouth, shape = (height, width, 3)."""
        patch, picture = self._composited(self._record(position), mouth)
        return patch, picture.copy()

    def _record(self, position: int) -> np.void:
        record: np.void = self._index[footage_index(position, self.facts.frames, self.facts.loop)]
        return record

    def _jpeg(self, record: np.void) -> memoryview:
        start = int(record["jpeg"])
        return self._footage[start : start + int(record["jpeg_size"])]

    def _composited(self, record: np.void, mouth: Picture) -> tuple[Rect, Picture]:
        patch = Rect(*record["patch"].tolist())
        x, y, size = record["box"].tolist()
        picture = scratch("patch", patch.height, patch.width)
        picture.ravel()[:] = np.frombuffer(self._pixels, np.uint8, picture.size, int(record["pixels"]))
        changed = changed_rect(self.facts.blend, self._mask, Rect(x, y, size, size))
        crop = Rect(changed.x - patch.x, changed.y - patch.y, changed.width, changed.height).of(picture)
        paste(self.facts.blend, self._mask, size, crop, mouth)
        return patch, picture
