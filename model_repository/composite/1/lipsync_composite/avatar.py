"""Reads packed avatars, which `assets.py` writes, and makes their frames."""

from __future__ import annotations

import io
import json
import os
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipsync_composite.assets import FORMAT, Facts
from lipsync_composite.loop import footage_index
from lipsync_composite.mark import SEGMENT
from lipsync_composite.paste import changed_rect, paste, scratch
from lipsync_composite.segments import Grid, Rect
from lipsync_composite.splice import encode, splice

JFIF_END = 20  # bytes: SOI, and the APP0 segment that the encoder writes

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


class _FrameFile:
    """A file that holds a piece for each frame, read piece by piece.

    It is read, not mapped: a file that is cut while it is mapped ends the process that touches the missing part.

    Args:
        path: of the file.
        size: that it must have.
        sums: CRC-32 of each piece. A piece is checked when it is first read: checking whole files would take seconds,
            in which no other avatar would get its frames.
    """

    def __init__(self, path: Path, size: int, sums: NDArray[np.uint32]) -> None:
        self._path, self._sums = path, sums
        self._checked = np.zeros(len(sums), bool)
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise AssetsError(f"{path} is missing: pack the avatar again") from None
        weakref.finalize(self, os.close, self._file)
        found = os.fstat(self._file).st_size
        if found != size:
            raise AssetsError(f"{path} is broken: {found} bytes instead of {size}: pack the avatar again")

    def read_into(self, number: int, offset: int, piece: NDArray[np.uint8]) -> None:
        """Fill `piece`, flat, with that of frame `number`. Raises AssetsError if it is not there, or not as packed."""
        try:
            count = os.preadv(self._file, [piece.data], offset)
        except OSError as error:
            raise AssetsError(f"{self._path} cannot be read: {error.strerror}") from error
        if count != piece.size:
            raise AssetsError(f"{self._path} is broken: it was cut while it was in use: pack the avatar again")
        if not self._checked[number]:
            if zlib.crc32(piece.data) != self._sums[number]:
                raise AssetsError(f"{self._path} is broken (frame {number}'s checksum differs): pack the avatar again")
            self._checked[number] = True


class PackedAvatar:
    """A packed avatar, open for reading.

    Args:
        folder: written by `write_assets`.
        mark: put the mark of synthetic pictures (`mark.py`) into every JPEG. The packed files have none, so avatars
            that were packed earlier are marked too.

    Raises:
        AssetsError: a file is missing, cut short or of another format. The methods raise it where the files were
            changed after they were opened.
    """

    def __init__(self, folder: Path, *, mark: bool = True) -> None:
        self._mark = np.frombuffer(SEGMENT if mark else b"", np.uint8)
        self.facts = _open_facts(folder / "avatar.json")
        self._index = _load(folder / "index.npy", self.facts.crc32["index.npy"])
        self._cuts = _load(folder / "cuts.npy", self.facts.crc32["cuts.npy"])
        sizes = self.facts.bytes
        self._footage = _FrameFile(folder / "footage.bin", sizes["footage.bin"], self._index["jpeg_crc"])
        self._pixels = _FrameFile(folder / "pixels.bin", sizes["pixels.bin"], self._index["pixels_crc"])
        self._grid = Grid(self.facts.width, self.facts.height, self.facts.restart_interval)
        self._mask = Rect(*self.facts.mask)

    @classmethod
    def open(cls, folder: Path, *, mark: bool = True) -> PackedAvatar:
        """Open a folder. Nothing is decoded, and pixels are read only when they are needed."""
        return cls(Path(folder), mark=mark)

    def footage_jpeg(self, position: int) -> bytes:
        """The plain footage frame at a position >= 0 of the loop, as JPEG."""
        return self._jpeg(self._number(position)).tobytes()

    def render(self, position: int, mouth: Picture) -> bytes:
        """The footage frame at a position >= 0 of the loop, with a mouth (BGR, shape = (320, 320, 3)), as JPEG.

        The bytes equal those of encoding the whole composited frame, with the mark.
        """
        number = self._number(position)
        patch, picture = self._composited(number, mouth)
        first = int(self._index[number]["cuts"])
        cuts = (self._cuts[first : first + self._grid.rows(patch)] + len(self._mark)).tolist()
        return splice(self._jpeg(number).data, cuts, self._grid, patch, picture, self.facts.quality)

    def render_patch(self, position: int, mouth: Picture) -> tuple[Rect, bytes]:
        """What `render` puts into the footage frame: where, and the JPEG of it. `paste_patch` puts it there."""
        patch, picture = self._composited(self._number(position), mouth)
        return patch, encode(picture, self.facts.quality, self._grid.interval).tobytes()

    def composited(self, position: int, mouth: Picture) -> tuple[Rect, Picture]:
        """What `render` encodes: the patch, and its BGR pixels with the mouth, shape = (height, width, 3)."""
        patch, picture = self._composited(self._number(position), mouth)
        return patch, picture.copy()

    def _number(self, position: int) -> int:
        return footage_index(position, self.facts.frames, self.facts.loop)

    def _jpeg(self, number: int) -> Picture:
        """The footage frame with the mark: after the first header segment (JFIF), which readers expect there."""
        record, added = self._index[number], len(self._mark)
        jpeg: Picture = np.empty(added + int(record["jpeg_size"]), np.uint8)
        self._footage.read_into(number, int(record["jpeg"]), jpeg[added:])
        if added:
            jpeg[:JFIF_END] = jpeg[added : added + JFIF_END]  # a segment is longer than that: they do not overlap
            jpeg[JFIF_END : JFIF_END + added] = self._mark
        return jpeg

    def _composited(self, number: int, mouth: Picture) -> tuple[Rect, Picture]:
        record = self._index[number]
        patch = Rect(*record["patch"].tolist())
        x, y, size = record["box"].tolist()
        picture = scratch("patch", patch.height, patch.width)
        self._pixels.read_into(number, int(record["pixels"]), picture.reshape(-1))
        changed = changed_rect(self.facts.blend, self._mask, Rect(x, y, size, size))
        crop = Rect(changed.x - patch.x, changed.y - patch.y, changed.width, changed.height).of(picture)
        paste(self.facts.blend, self._mask, size, crop, mouth)
        return patch, picture
