"""The restart segments of a JPEG: where they lie, and how those of a patch replace those of a frame.

A baseline JPEG with restart markers is a sequence of independent segments: at every marker the DC prediction restarts
and the bits are padded to a byte. If frame and patch use the same tables and the same restart interval, a patch that is
cut along segment borders encodes to the same bytes that the whole frame would have there. Only the markers' cyclic
numbers (RST0..RST7, ITU T.81 E.1.3) must be rewritten. Nothing is decoded here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MCU = 16  # pixels: side of the smallest coding unit with 4:2:0 chroma
MAX_INTERVAL = 8  # MCUs between restart markers
_RST0, _RST7, _EOI, _SOS, _SOF0, _DRI = 0xD0, 0xD7, 0xD9, 0xDA, 0xC0, 0xDD

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


def _header(jpeg: memoryview) -> Iterator[tuple[int, int]]:
    """Marker and offset of each part before the entropy-coded data.

    It must be walked: quantisation tables may look like markers.
    """
    at = 2
    while jpeg[at] == 0xFF:  # plain integers: indexing an array is ten times slower
        yield jpeg[at + 1], at
        if jpeg[at + 1] == _SOS:
            return
        at += 2 + (jpeg[at + 2] << 8 | jpeg[at + 3])


def _scan_start(jpeg: Bytes) -> int:
    """Offset of the first entropy-coded byte."""
    header = memoryview(jpeg.data)
    start = next(at for marker, at in _header(header) if marker == _SOS)
    return start + 2 + (header[start + 2] << 8 | header[start + 3])


def scan_of(jpeg: bytes) -> bytes:
    """The entropy-coded data of a JPEG, without its header, which a patch has in common with its frame."""
    return jpeg[_scan_start(np.frombuffer(jpeg, np.uint8)) :]


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


def join(frame: memoryview, cuts: list[list[int]], grid: Grid, patch: Rect, encoded: Bytes) -> bytes:
    """The JPEG of the frame with `patch` replaced.

    Args:
        frame: JPEG of the whole frame, with the segments of `grid`.
        cuts: `row_cuts` of the patch in that JPEG, as a list.
        grid: the frame's segments.
        patch: the rectangle to replace, from `grid.cover`.
        encoded: JPEG of the patch, with the frame's tables and restart interval; its markers are renumbered in place.

    Raises:
        ValueError: the JPEG of the patch has other segments.
    """
    numbers = grid.segments(patch)
    bounds = segment_bounds(encoded, numbers.size)
    encoded[bounds[1:] - 1] = _RST0 + (numbers.ravel() & 7)
    if numbers[-1, -1] == grid.total - 1:
        encoded[-1] = _EOI
    pixels, row_bounds = memoryview(encoded.data), bounds[:: numbers.shape[1]].tolist()
    pieces: list[memoryview] = []
    at = 0
    for row, (start, end) in enumerate(cuts):
        pieces += frame[at:start], pixels[row_bounds[row] : row_bounds[row + 1]]
        at = end
    pieces.append(frame[at:])
    return b"".join(pieces)


def paste_patch(frame: bytes, patch: bytes, box: tuple[int, int, int, int]) -> bytes:
    """The JPEG of a footage frame with a mouth in it: the very bytes of the whole frame. Nothing is decoded.

    Args:
        frame: JPEG of the footage frame, as the server gives it.
        patch: JPEG of the mouth for that frame, from `PATCH`.
        box: x, y, width, height of the patch in the frame in pixels, from `PATCH_BOX`.

    Raises:
        ValueError: the patch is not of this frame.
    """
    try:
        grid, own = _grid_of(frame), _grid_of(patch)
    except (IndexError, StopIteration):
        raise ValueError("frame and patch must be JPEG files with restart markers, as the server gives them") from None
    rect = Rect(*box)
    if (
        (own.width, own.height) != (rect.width, rect.height)
        or own.interval != grid.interval
        or grid.cover(rect) != rect
    ):
        raise ValueError(f"a patch of {own.width} x {own.height} pixels does not fit the box {rect} of this frame")
    cuts = row_cuts(grid, rect, segment_bounds(np.frombuffer(frame, np.uint8), grid.total)).tolist()
    return join(memoryview(frame), cuts, grid, rect, np.frombuffer(bytearray(patch), np.uint8))


def _grid_of(jpeg: bytes) -> Grid:
    """The segments of a JPEG, by its header."""
    width = height = interval = 0
    for marker, at in _header(memoryview(jpeg)):
        if marker == _SOF0:
            height, width = jpeg[at + 5] << 8 | jpeg[at + 6], jpeg[at + 7] << 8 | jpeg[at + 8]
        elif marker == _DRI:
            interval = jpeg[at + 4] << 8 | jpeg[at + 5]
    if not (width and height and interval):
        raise StopIteration
    return Grid(width, height, interval)
