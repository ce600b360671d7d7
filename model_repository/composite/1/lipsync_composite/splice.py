"""Replaces a rectangle of a JPEG by encoding only that rectangle.

A baseline JPEG with restart markers is a sequence of independent segments: at every marker the DC prediction restarts
and the bits are padded to a byte. If frame and patch use the same tables and the same restart interval, a patch that is
cut along segment borders encodes to the same bytes that the whole frame would have there. Only the markers' cyclic
numbers (RST0..RST7, ITU T.81 E.1.3) must be rewritten.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

MCU = 16  # pixels: side of the smallest coding unit with 4:2:0 chroma
MAX_INTERVAL = 8  # MCUs between restart markers
_RST0, _RST7, _EOI, _SOS = 0xD0, 0xD7, 0xD9, 0xDA

Bytes = NDArray[np.uint8]


class Rect(NamedTuple):
    """A rectangle in pixels; `x` and `y` are its left and top."""

    x: int
    y: int
    width: int
    height: int

    def of(self, picture: NDArray[Any]) -> NDArray[Any]:
        """The rectangle's view of a picture, shape = (height, width, ..)."""
        return picture[self.y : self.y + self.height, self.x : self.x + self.width]


class Grid(NamedTuple):
    """Where the restart segments of a `width` x `height` picture lie: `interval` MCUs each, never across MCU rows."""

    width: int
    height: int
    interval: int

    @classmethod
    def for_frame(cls, width: int, height: int) -> Grid:
        """The grid with the longest interval, up to MAX_INTERVAL, that divides an MCU row evenly."""
        columns = -(-width // MCU)
        return cls(width, height, max(r for r in range(1, MAX_INTERVAL + 1) if columns % r == 0))

    @property
    def per_row(self) -> int:
        """Segments in one MCU row."""
        return -(-self.width // (MCU * self.interval))

    @property
    def total(self) -> int:
        """Segments in the picture."""
        return self.per_row * -(-self.height // MCU)

    def cover(self, rect: Rect) -> Rect:
        """The smallest rectangle around `rect` made of whole segments, clipped at the picture's right and bottom."""
        step = MCU * self.interval
        left, top = rect.x // step * step, rect.y // MCU * MCU
        right = min(-(-(rect.x + rect.width) // step) * step, self.width)
        bottom = min(-(-(rect.y + rect.height) // MCU) * MCU, self.height)
        return Rect(left, top, right - left, bottom - top)

    def rows(self, patch: Rect) -> int:
        """MCU rows of a segment-aligned rectangle."""
        return -(-patch.height // MCU)

    def segments(self, patch: Rect) -> NDArray[np.int64]:
        """Numbers of the segments of a segment-aligned rectangle, shape = (MCU rows, segments in each)."""
        rows = patch.y // MCU + np.arange(self.rows(patch))
        step = MCU * self.interval
        columns = patch.x // step + np.arange(-(-patch.width // step))
        return rows[:, None] * self.per_row + columns


def encode(picture: Bytes, quality: int, interval: int) -> Bytes:
    """Encodes BGR, shape = (height, width, 3), as 4:2:0 JPEG with standard Huffman tables and a restart marker every
    `interval` MCUs. OpenCV's bytes equal Pillow's at these settings, in half the time: it reads BGR as it is.
    """
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    done, data = cv2.imencode(".jpg", picture, settings)
    if not done:
        raise ValueError(f"a picture of {picture.shape[1]} x {picture.shape[0]} cannot be encoded as JPEG")
    return data


def _scan_start(jpeg: Bytes) -> int:
    """Offset of the first entropy-coded byte. The header must be walked: quantisation tables may look like markers."""
    header, at = memoryview(jpeg.data), 2  # plain integers: indexing an array is ten times slower
    while True:
        marker, length = header[at + 1], header[at + 2] << 8 | header[at + 3]
        at += 2 + length
        if marker == _SOS:
            return at


def segment_bounds(jpeg: Bytes, count: int) -> NDArray[np.int64]:
    """Offsets of the `count` segments of a JPEG, shape = (count + 1,). Segment k, with the two-byte marker that ends it
    (RST, or EOI for the last), is `jpeg[bounds[k]:bounds[k + 1]]`.
    """
    start = _scan_start(jpeg)
    ff = np.flatnonzero(jpeg[start:-1] == 0xFF) + start
    follower = jpeg[ff + 1]  # 0 where the 0xFF is data
    markers = ff[((follower >= _RST0) & (follower <= _RST7)) | (follower == _EOI)]
    if len(markers) != count:
        raise ValueError(f"the JPEG has {len(markers)} restart segments, expected {count}")
    return np.concatenate(([start], markers + 2))


def row_cuts(grid: Grid, patch: Rect, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Offsets of the patch's rows in the frame's JPEG, shape = (MCU rows of the patch, 2): from, to."""
    numbers = grid.segments(patch)
    return np.stack([bounds[numbers[:, 0]], bounds[numbers[:, -1] + 1]], axis=1)


def splice(frame: memoryview, cuts: list[list[int]], grid: Grid, patch: Rect, picture: Bytes, quality: int) -> bytes:
    """The JPEG of the frame with `patch` replaced.

    Args:
        frame: JPEG of the whole frame, encoded with `quality` and `grid.interval`.
        cuts: `row_cuts` of the patch in that JPEG, as a list.
        grid: the frame's segments.
        patch: the rectangle to replace, from `grid.cover`.
        picture: its new pixels, BGR, shape = (patch.height, patch.width, 3).
        quality: JPEG quality, 1 to 100.
    """
    data = encode(picture, quality, grid.interval)
    numbers = grid.segments(patch)
    bounds = segment_bounds(data, numbers.size)
    data[bounds[1:] - 1] = _RST0 + (numbers.ravel() & 7)
    if numbers[-1, -1] == grid.total - 1:
        data[-1] = _EOI
    pixels, row_bounds = memoryview(data.data), bounds[:: numbers.shape[1]].tolist()
    pieces: list[memoryview] = []
    at = 0
    for row, (start, end) in enumerate(cuts):
        pieces += frame[at:start], pixels[row_bounds[row] : row_bounds[row + 1]]
        at = end
    pieces.append(frame[at:])
    return b"".join(pieces)
