"""Metrics of the mouth patch in its footage: leakage, movement, flicker, seam and tint. Before JPEG, in grey levels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_composite.avatar import PackedAvatar
from lipsync_composite.geometry import CROP, MARGIN
from lipsync_composite.loop import footage_index
from lipsync_composite.segments import Rect

Picture = NDArray[np.uint8]
Change = NDArray[np.float32]
BLOCK = 16  # pixels: a visible change has an extent
BAND = 0.12  # of the mask's width or height: its soft edge, and a little more


class Footage:
    """The plain frames of a packed avatar, as its files hold them.

    Args:
        folder: `<model>/avatar/<key>/`.
    """

    def __init__(self, folder: Path, avatar: PackedAvatar) -> None:
        self.avatar, self.facts = avatar, avatar.facts
        self._index = np.load(folder / "index.npy")
        self._pixels = np.memmap(folder / "pixels.bin", np.uint8, "r")
        x, y, width, height = self._index["patch"].T
        left, top = int(x.min()), int(y.min())
        self.reach = Rect(left, top, int((x + width).max()) - left, int((y + height).max()) - top)

    def frame(self, position: int) -> Picture:
        """The whole frame as it is sent, BGR."""
        return decode(self.avatar.footage_jpeg(position))

    def box(self, position: int) -> tuple[int, int, int]:
        """The crop box: x, y, size."""
        x, y, size = self._index[self._number(position)]["box"].tolist()
        return x, y, size

    def patch(self, position: int) -> tuple[Rect, Picture]:
        """The rectangle that the paste can change, and its pixels before JPEG, BGR."""
        record = self._index[self._number(position)]
        rect = Rect(*record["patch"].tolist())
        first = int(record["pixels"])
        pixels = self._pixels[first : first + 3 * rect.height * rect.width]
        return rect, np.asarray(pixels).reshape(rect.height, rect.width, 3)

    def mask(self, position: int) -> Rect:
        """The mask in whole pixels of the frame, cut to the patch.

        The patch can be smaller than the mask, because the first pixels of the soft edge can have no weight.
        """
        x, y, size = self.box(position)
        mx, my, width, height = self.facts.mask
        scale, (patch, _) = size / CROP, self.patch(position)
        left, top = x + (mx + MARGIN) * scale, y + (my + MARGIN) * scale
        right = min(int(np.ceil(left + width * scale)), patch.x + patch.width)
        bottom = min(int(np.ceil(top + height * scale)), patch.y + patch.height)
        first, upper = max(int(left), patch.x), max(int(top), patch.y)
        return Rect(first, upper, right - first, bottom - upper)

    def _number(self, position: int) -> int:
        return footage_index(position, self.facts.frames, self.facts.loop)


def decode(jpeg: bytes) -> Picture:
    """BGR pixels of a JPEG."""
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)


class PatchMetrics:
    """Measures consecutive frames of one recording.

    D is a frame's patch minus the plain footage's patch, in the frame's pixels. So the footage's own movement is not
    in it.

    Attributes:
        outside: number of pixels outside the mask that differ from the plain footage, in all frames.
        movement: for each frame after the first, mean |D(t) - D(t-1)| near the mouth.
        largest: for each frame after the first, the largest value of |D(t) - D(t-1)|.
        largest_block: for each frame after the first, the largest block mean of D(t) - D(t-1), absolute, over 16x16
            blocks and colours: about what is visible. An error that only moves along with the head cancels in it.
        flicker: for each frame after the second, mean |D(t) - 2 D(t-1) + D(t-2)| near the mouth.
        tint: for each frame, the largest block mean of |D| at the inner end of the mask's soft edge: the difference of
            colour that the edge must hide.
        seam: for each frame, the largest mean slope of D across 16 pixels of the mask's edge, levels per pixel.
        edge_slopes: for each frame, mean slope across the mask's edges of the frame, and of the plain footage.
    """

    def __init__(self, footage: Footage, lips: tuple[float, float, float]) -> None:
        self._footage, self._lips = footage, lips
        self._last: list[Change] = []
        self.outside = 0
        self.movement: list[float] = []
        self.largest_block: list[float] = []
        self.largest: list[float] = []
        self.flicker: list[float] = []
        self.tint: list[float] = []
        self.seam: list[float] = []
        self.edge_slopes: list[tuple[float, float]] = []

    def add(self, position: int, patch: Rect, picture: Picture) -> None:
        """Add the next frame: its patch from `Avatar.composited`."""
        rect, plain = self._footage.patch(position)
        if rect != patch:
            raise ValueError(f"the patch at position {position} is {patch}, the packed footage has {rect}")
        change = picture.astype(np.float32) - plain
        mask = self._footage.mask(position)
        inside = Rect(mask.x - rect.x, mask.y - rect.y, mask.width, mask.height)
        beyond = picture != plain
        inside.of(beyond)[:] = False
        self.outside += int(beyond.any(axis=2).sum()) if beyond.any() else 0
        self._edges(inside, change, picture, plain)
        reach = self._footage.reach
        whole = np.zeros((reach.height, reach.width, 3), np.float32)
        Rect(rect.x - reach.x, rect.y - reach.y, rect.width, rect.height).of(whole)[:] = change
        self._motion(whole, mouth_square(self._footage.box(position), self._lips, reach))

    def _motion(self, whole: Change, mouth: Rect) -> None:
        if self._last:
            step = whole - self._last[-1]
            self.movement.append(float(np.abs(mouth.of(step)).mean()))
            self.largest.append(float(np.abs(step).max()))
            self.largest_block.append(float(np.abs(cv2.blur(step, (BLOCK, BLOCK))).max()))
        if len(self._last) == 2:
            bend = whole - 2 * self._last[1] + self._last[0]
            self.flicker.append(float(np.abs(mouth.of(bend)).mean()))
        self._last = [*self._last[-1:], whole]

    def _edges(self, mask: Rect, change: Change, picture: Picture, plain: Picture) -> None:
        seams, tints, rough = [], [], []
        grey, bright, plain_bright = (_grey(p.astype(np.float32)) for p in (change, picture, plain))
        for side in range(4):
            turned = [np.rot90(p, side) for p in (grey, bright, plain_bright)]
            edge = _turn(mask, change.shape[1], change.shape[0], side)
            depth = round(BAND * edge.height)
            band = Rect(edge.x, max(edge.y - 2, 0), edge.width, depth + 2)
            slopes = np.diff(band.of(turned[0]), axis=0)
            seams.append(float(np.abs(_block_means(slopes)).max()))
            rough.append([float(np.abs(np.diff(band.of(p), axis=0)).mean()) for p in turned[1:]])
            end = Rect(edge.x, edge.y + depth - BLOCK // 2, edge.width, BLOCK)
            colours = end.of(np.rot90(change, side)).mean(0)  # a block's mean colour change: noise and detail cancel
            tints.append(float(np.abs(_block_means(colours.T)).max()))
        self.seam.append(max(seams))
        self.tint.append(max(tints))
        out, still = np.mean(rough, axis=0).tolist()
        self.edge_slopes.append((out, still))


def _grey(picture: Change) -> Change:
    """Mean of the three colours. numpy's mean takes ten times as long."""
    return np.asarray(cv2.transform(picture, np.full((1, 3), 1 / 3, np.float32)), np.float32)


def _turn(rect: Rect, width: int, height: int, quarters: int) -> Rect:
    """A rectangle of a `width` x `height` picture after `np.rot90(picture, quarters)`."""
    for _ in range(quarters):
        rect = Rect(rect.y, width - rect.x - rect.width, rect.height, rect.width)
        width, height = height, width
    return rect


def _block_means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of `BLOCK` neighbours along the second axis."""
    count = values.shape[1] // BLOCK
    return np.asarray(values[:, : count * BLOCK].reshape(len(values), count, BLOCK).mean(2))


def mouth_square(
    box: tuple[float, float, float], lips: tuple[float, float, float], frame: Rect | None = None, size: float = 1.6
) -> Rect:
    """The square around a mouth.

    Args:
        box: x, y, size of the crop box.
        lips: centre x, y and width of the mouth relative to the box.
        frame: the result is inside this rectangle and relative to its corner.
        size: of the square, in mouth widths.
    """
    half = size / 2 * lips[2] * box[2]
    x, y = box[0] + lips[0] * box[2], box[1] + lips[1] * box[2]
    frame = frame or Rect(0, 0, 1 << 20, 1 << 20)
    left, top = max(round(x - half) - frame.x, 0), max(round(y - half) - frame.y, 0)
    right, bottom = min(round(x + half) - frame.x, frame.width), min(round(y + half) - frame.y, frame.height)
    return Rect(left, top, right - left, bottom - top)
