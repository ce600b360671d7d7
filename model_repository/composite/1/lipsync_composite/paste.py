"""Pastes the network's mouth back into the frame, at the place that `geometry.py` defines."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_composite.geometry import CROP, MARGIN
from lipsync_composite.segments import Rect

EDGE = 0.09  # width of the soft edge as a part of the mask's width or height
BLENDS = ("soft", "reference")

Picture = NDArray[np.uint8]


class SoftEdge(NamedTuple):
    """The mask at a box's resolution.

    Attributes:
        rect: the mask in the box's pixels.
        inner: the part of `rect` (relative to it) that shows only the mouth.
        strips: the rest of `rect` in four parts, each with the weights of the mouth and of the footage: UINT16, shape =
            (height, width, 3), in 1/256, with the sum 256. In this form a mix takes half of OpenCV's time.
    """

    rect: Rect
    inner: Rect
    strips: tuple[tuple[Rect, NDArray[np.uint16], NDArray[np.uint16]], ...]


def _ramps(start: float, length: float) -> tuple[int, NDArray[np.float32]]:
    """First pixel and weights of one axis: 0 outside [start, start + length], smoothstep at both ends, 1 between.

    Only pixels with a weight above 0 are listed. The weight is that of the pixel's centre.
    """
    pixels = np.arange(int(np.floor(start)), int(np.ceil(start + length)) + 1)
    depth = np.minimum(pixels + 0.5 - start, start + length - pixels - 0.5)
    t = np.clip(depth / (EDGE * length), 0, 1)
    weights = (t * t * (3 - 2 * t)).astype(np.float32)
    inside = np.flatnonzero(weights > 0)
    return int(pixels[inside[0]]), weights[inside[0] : inside[-1] + 1]


@lru_cache(maxsize=64)
def soft_edge(size: int, mask: Rect) -> SoftEdge:
    """The soft edge of `mask` (in the 320 crop) for a box of `size` pixels.

    The inside is never empty: the smallest mask and box that assets allow, 32 pixels each, give 3 pixels of the frame.
    """
    scale = size / CROP
    left, across = _ramps((mask.x + MARGIN) * scale, mask.width * scale)
    top, down = _ramps((mask.y + MARGIN) * scale, mask.height * scale)
    full_x, full_y = np.flatnonzero(across == 1), np.flatnonzero(down == 1)
    inner = Rect(int(full_x[0]), int(full_y[0]), len(full_x), len(full_y))
    mouth = np.rint(256 * np.outer(down, across)).astype(np.uint16)[..., None].repeat(3, axis=2)
    parts = _around(inner, len(across), len(down))
    return SoftEdge(
        rect=Rect(left, top, len(across), len(down)),
        inner=inner,
        strips=tuple((part, part.of(mouth).copy(), np.uint16(256) - part.of(mouth)) for part in parts),
    )


def _around(inner: Rect, width: int, height: int) -> list[Rect]:
    """The parts of a `width` x `height` rectangle outside `inner`: top, bottom, left, right."""
    right, bottom = inner.x + inner.width, inner.y + inner.height
    return [
        Rect(0, 0, width, inner.y),
        Rect(0, bottom, width, height - bottom),
        Rect(0, inner.y, inner.x, inner.height),
        Rect(right, inner.y, width - right, inner.height),
    ]


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.named: dict[str, Picture] = {}


_buffers = _Buffers()


def scratch(name: str, height: int, width: int) -> Picture:
    """A BGR buffer of the calling thread, shape = (height, width, 3), valid until the next call with the same name.

    Its content is arbitrary. Without reuse, buffers of this size come from new pages, and page faults take 0.3 ms a
    frame.
    """
    size = 3 * height * width
    if name not in _buffers.named or len(_buffers.named[name]) < size:
        _buffers.named[name] = np.empty(size, np.uint8)
    return _buffers.named[name][:size].reshape(height, width, 3)


def changed_rect(blend: str, mask: Rect, box: Rect) -> Rect:
    """The rectangle of the frame that `paste` may change, in the frame's pixels."""
    if blend == "reference":
        return box
    rect = soft_edge(box.width, mask).rect
    return Rect(box.x + rect.x, box.y + rect.y, rect.width, rect.height)


def paste(blend: str, mask: Rect, size: int, crop: Picture, mouth: Picture) -> None:
    """Paste a mouth into the footage, in place.

    Args:
        blend: `soft` replaces only the mask, with an edge that fades inside the mask. `reference` replaces the whole
            box, as SyncTalk_2D does.
        mask: the part that was hidden from the network, in the 320 crop.
        size: side of the crop box in the frame's pixels.
        crop: the footage inside `changed_rect`, BGR, a view that is written to.
        mouth: the network's picture, BGR, shape = (320, 320, 3).
    """
    canvas, resized = scratch("canvas", CROP, CROP), scratch("resized", size, size)
    if blend == "reference":
        cv2.resize(crop, (CROP, CROP), dst=canvas, interpolation=cv2.INTER_CUBIC)
        canvas[MARGIN:-MARGIN, MARGIN:-MARGIN] = mouth
        crop[:] = cv2.resize(canvas, (size, size), dst=resized, interpolation=cv2.INTER_CUBIC)
    else:
        cv2.copyMakeBorder(mouth, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_REPLICATE, dst=canvas)
        cv2.resize(canvas, (size, size), dst=resized, interpolation=cv2.INTER_CUBIC)
        edge = soft_edge(size, mask)
        _fade_in(crop, edge.rect.of(resized), edge)


def _fade_in(crop: Picture, mouth: Picture, edge: SoftEdge) -> None:
    """Copy the middle and mix only the edge, a third of the pixels: mixing costs much more than copying."""
    edge.inner.of(crop)[:] = edge.inner.of(mouth)
    for part, mouth_weight, footage_weight in edge.strips:
        footage = part.of(crop)
        mix = part.of(mouth) * mouth_weight  # at most 255 * 256: the sum stays below 65,536
        mix += footage * footage_weight
        mix += 128
        mix >>= 8
        footage[:] = mix
