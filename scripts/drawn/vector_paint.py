"""A small painter of smooth vector shapes on float canvases: splines, soft edges, gradients.

Canvases are FP32 [h,w,4] BGRA with premultiplied alpha, 0..1. Coordinates are the finished picture's pixels; a canvas
holds `SCALE` times as many pixels and begins at its `origin`, so that shapes are smooth at any sub-pixel position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

SCALE = 2
_BITS = 4  # of sub-pixel precision in cv2's fixed-point polygons
Points = Sequence[tuple[float, float]] | np.ndarray


def colour(code: str) -> np.ndarray:
    """'#rrggbb' -> FP32 BGR in 0..1."""
    return np.array([int(code[i : i + 2], 16) for i in (5, 3, 1)], np.float32) / 255


def spline(points: Points, closed: bool = True, steps: int = 12) -> np.ndarray:
    """A smooth curve (centripetal enough for drawings: Catmull-Rom) through the points, FP64 [n,2]."""
    p = np.asarray(points, float)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.concatenate(parts if closed else [*parts, p[-2:-1]])


def mirrored(points: Points, x: float) -> list[tuple[float, float]]:
    """A right half (from the top) and its mirror image about the vertical at `x`: one closed outline."""
    right = [(float(px), float(py)) for px, py in points]
    left = [(2 * x - px, py) for px, py in reversed(right) if abs(px - x) > 1e-6]
    return right + left


@dataclass
class Canvas:
    pixels: np.ndarray
    origin: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def clear(cls, x: float, y: float, width: int, height: int) -> Canvas:
        return cls(np.zeros((height * SCALE, width * SCALE, 4), np.float32), (x, y))

    def copy(self) -> Canvas:
        return Canvas(self.pixels.copy(), self.origin)

    def part(self, x: float, y: float, width: float, height: float) -> Canvas:
        """A view of a rectangle, as far as it lies on the canvas: painting on it paints here."""
        left, top = (max(0, round((at - o) * SCALE)) for at, o in zip((x, y), self.origin, strict=True))
        right, bottom = (
            max(0, round((at - o) * SCALE)) for at, o in zip((x + width, y + height), self.origin, strict=True)
        )
        return Canvas(
            self.pixels[top:bottom, left:right], (self.origin[0] + left / SCALE, self.origin[1] + top / SCALE)
        )

    def mask(self, outline: Points, blur: float = 0.0) -> np.ndarray:
        """FP32 [h,w] coverage of a closed outline; `blur` is the Gaussian's sigma in pixels."""
        at = (np.asarray(outline, float) - self.origin) * SCALE - 0.5
        result = np.zeros(self.pixels.shape[:2], np.uint8)
        cv2.fillPoly(result, [np.round(at * (1 << _BITS)).astype(np.int32)], (255,), cv2.LINE_AA, _BITS)
        soft = result.astype(np.float32) / 255
        return cv2.GaussianBlur(soft, (0, 0), blur * SCALE) if blur else soft

    def fill(self, mask: np.ndarray, tint: np.ndarray, alpha: float = 1.0) -> None:
        """Paint over: tint is a BGR colour or one colour per row."""
        area, cover, tint = self._area(mask, tint, alpha)
        area *= 1 - cover
        area[..., :3] += cover * tint
        area[..., 3:] += cover

    def shade(self, mask: np.ndarray, tint: np.ndarray, alpha: float = 1.0) -> None:
        """Like `fill`, but only where something is painted already."""
        area, cover, tint = self._area(mask, tint, alpha)
        area[..., :3] += cover * (tint * area[..., 3:] - area[..., :3])

    def _area(self, mask: np.ndarray, tint: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Only the rectangle that the mask covers: its pixels (a view), cover and colour."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        down = slice(rows[0], rows[-1] + 1) if len(rows) else slice(0, 0)
        across = slice(columns[0], columns[-1] + 1) if len(columns) else slice(0, 0)
        return (
            self.pixels[down, across],
            (mask[down, across] * np.float32(alpha))[..., None],
            tint[down] if tint.ndim == 3 else tint,
        )

    def vertical(self, top: float, bottom: float, above: np.ndarray, below: np.ndarray) -> np.ndarray:
        """A vertical gradient as one colour per row, FP32 [h,1,3]."""
        y = np.arange(self.pixels.shape[0]) / SCALE + self.origin[1]
        t = np.clip((y - top) / (bottom - top), 0, 1).astype(np.float32)[:, None, None]
        t = t * t * (3 - 2 * t)
        return above * (1 - t) + below * t


def stroke(points: Points, width: float, taper: bool = True) -> np.ndarray:
    """The outline of a line along the points (already smooth), thinning towards its ends if `taper`."""
    p = np.asarray(points, float)
    along = np.gradient(p, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / np.maximum(np.linalg.norm(along, axis=1), 1e-6)[:, None]
    t = np.linspace(0, 1, len(p))
    half = width / 2 * (np.sqrt(np.clip(4 * t * (1 - t), 0, 1)) if taper else np.ones_like(t))[:, None]
    return np.concatenate([p + normal * half, (p - normal * half)[::-1]])


def ellipse(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], 1)


def moved(outline: Points, right: float, down: float) -> np.ndarray:
    """The same outline elsewhere."""
    return np.asarray(outline, float) + np.array([right, down])
