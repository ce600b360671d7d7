"""The drawn avatar's mouth: lips, teeth, tongue from the seven curves of `mouth_curves.MOUTH`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from drawn.vector_paint import Canvas, colour, ellipse, moved, stroke

CENTRE = (640.0, 446.0)  # between the closed lips, in picture pixels
UPPER, UPPER_DARK = colour("#b5504f"), colour("#9c3f43")
LOWER, LOWER_LIGHT = colour("#c9635f"), colour("#e59a90")
INSIDE, THROAT = colour("#57161d"), colour("#2b070d")
TEETH, TEETH_SHADE = colour("#fbf6f0"), colour("#cfc0b8")
TONGUE, TONGUE_LIGHT = colour("#b9525a"), colour("#d77a7c")
LINE, SHADOW = colour("#6d2429"), colour("#b26a52")


@dataclass(frozen=True)
class Shape:
    """The mouth's measures in pixels, from the curves."""

    half: float  # half width, corner to corner
    gap: float  # between the lips, in the middle
    up: float  # how far the upper lip's inner edge is raised
    upper: float  # thickness of the upper lip
    lower: float
    corner: float  # height of the corners (negative: raised)
    square: float  # 0: a pointed opening, 1: a full, round one

    @property
    def down(self) -> float:
        return self.gap - self.up


def shape_of(mouth: np.ndarray) -> Shape:
    opening, wide, rounded, press, bite, teeth, tongue = (float(v) for v in mouth)
    free = 1 - min(1.0, press * 1.05) ** 2  # pressed lips do not open
    gap = (44 * opening + 4 * rounded * min(1.0, 5 * opening) + 2.5 * max(teeth, tongue)) * free
    gap = gap * (1 - bite) + 6.5 * bite
    return Shape(
        half=47 + 10 * wide - 19 * rounded - 3 * opening,
        gap=max(gap, 0.0),
        up=gap * 0.24 + 1.5 * bite,
        upper=11.5 - 3.5 * max(0.0, press - 0.5) - 1.5 * wide + 2.0 * rounded,
        lower=(15.0 - 3.5 * max(0.0, press - 0.5) - 2.0 * wide + 2.5 * rounded) * (1 - 0.5 * bite),
        corner=-4.5 - 3.0 * wide + 0.5 * rounded + 0.14 * gap,
        square=0.35 + 0.4 * rounded + 0.2 * opening,
    )


def jaw_drop(mouth: np.ndarray) -> float:
    """How many pixels the chin comes down."""
    return 0.42 * shape_of(mouth).down


def _inner(s: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower edge of the opening, left to right, [n,2] each, relative to the centre."""
    x = np.linspace(-1, 1, 41)
    half = s.half - 3.5 - min(3.0, s.gap * 0.2)
    arch = (1 - np.abs(x) ** (1.7 + 1.6 * s.square)) ** (0.9 - 0.25 * s.square)
    bend = s.corner * np.abs(x) ** 2 * 0.9  # closed lips still curve up to the corners
    return (
        np.stack([x * half, bend - s.up * arch], 1),
        np.stack([x * half, bend + s.down * arch], 1),
    )


def _lips(s: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Outer edges: the upper lip's with its bow, the lower lip's, left to right."""
    x = np.linspace(-1, 1, 61)
    bend = s.corner * np.abs(x) ** 2.2
    full = 1.5 + 0.8 * s.square + 0.02 * s.gap
    bow = 1.6 * np.exp(-((np.abs(x) - 0.2) ** 2) / 0.012) - 2.2 * np.exp(-(x**2) / 0.012)
    top = bend - (s.upper + s.up) * (1 - np.abs(x) ** full) ** (1.15 - 0.4 * s.square) - bow
    bottom = bend + (s.lower + s.down) * (1 - np.abs(x) ** (full + 0.5)) ** (0.95 - 0.3 * s.square)
    top[[0, -1]] = bottom[[0, -1]] = s.corner
    return np.stack([x * s.half, top], 1), np.stack([x * s.half, bottom], 1)


def _between(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return np.concatenate([upper, lower[::-1]])


def _inside(canvas: Canvas, mouth: np.ndarray, s: Shape, top: np.ndarray, bottom: np.ndarray) -> None:
    """Throat, tongue and teeth, clipped to the opening."""
    _, wide, rounded, _, bite, teeth, tongue = (float(v) for v in mouth)
    x0, y0 = CENTRE
    opening = canvas.mask(_between(top, bottom) + CENTRE)
    canvas.fill(opening, canvas.vertical(y0 - s.up, y0 + s.down, THROAT, INSIDE))
    rise = min(1.0, tongue * 1.2)
    height = s.gap * (0.30 + 0.42 * rise)
    body = ellipse(x0, y0 + s.down + 6 - height * 0.45, s.half * (0.62 - 0.1 * rise), height * 0.75 + 4)
    canvas.fill(opening * canvas.mask(body, 0.8), TONGUE, min(1.0, s.gap / 8))
    light = ellipse(x0, y0 + s.down + 2 - height * 0.55, s.half * 0.3, height * 0.35 + 1)
    canvas.fill(opening * canvas.mask(body) * canvas.mask(light, 3), TONGUE_LIGHT, 0.5 * min(1.0, s.gap / 10))
    lowered = (0.55 + 0.45 * teeth) * (1 - 0.75 * rounded)
    long = min(s.gap * (0.52 + 0.2 * teeth), 5 + 8.5 * lowered) * (1 - bite) + (s.gap + 1.0) * bite
    long *= 1 - 0.6 * rounded * (1 - teeth)
    dip = np.stack([np.linspace(-1, 1, 41)] * 2, 1)[:, :1] ** 2
    row = top + np.concatenate([np.zeros((41, 1)), long * (1 - 0.35 * dip)], 1)
    upper_row = opening * canvas.mask(_between(moved(top, 0, -2), row) + CENTRE, 0.4)
    canvas.fill(upper_row, canvas.vertical(y0 - s.up - 1, y0 - s.up + 9, TEETH_SHADE, TEETH))
    short = max(0.0, min(s.gap * 0.3, 7.0)) * max(teeth - 0.25, 0.12 * wide) / 0.75 * (1 - rise * 0.7) * (1 - bite)
    if short > 0.3:
        row = bottom - np.concatenate([np.zeros((41, 1)), short * (1 - 0.4 * dip)], 1)
        canvas.fill(opening * canvas.mask(_between(row, moved(bottom, 0, 2)) + CENTRE, 0.4), TEETH_SHADE, 0.95)
    ends = ellipse(x0 - s.half + 4, y0, 9, 14), ellipse(x0 + s.half - 4, y0, 9, 14)
    for end in ends:  # the corners lie in the shade
        canvas.fill(opening * canvas.mask(end, 4), THROAT, 0.65)
    shade = canvas.mask(_between(moved(top, 0, -3), moved(top, 0, 2.5)) + CENTRE, 1.5)
    canvas.fill(opening * shade, THROAT, 0.45)


def paint_mouth(canvas: Canvas, mouth: np.ndarray) -> None:
    """Paint the mouth on the face.

    Args:
        canvas: the head's canvas, or a part of it about 60 px around `CENTRE`.
        mouth: the curves in the order of `mouth_curves.MOUTH`, [7] in 0..1.
    """
    s = shape_of(mouth)
    x0, y0 = CENTRE
    inner_top, inner_bottom = _inner(s)
    outer_top, outer_bottom = _lips(s)
    whole = canvas.mask(_between(outer_top, outer_bottom) + CENTRE)
    under = ellipse(x0, y0 + s.down + s.lower + 5, s.half * 0.55, 4.5)
    canvas.shade(canvas.mask(under, 4.0), SHADOW, 0.42)
    for side in (-1, 1):
        canvas.shade(canvas.mask(ellipse(x0 + side * (s.half + 2), y0 + s.corner + 1, 4, 5), 2.5), SHADOW, 0.4)
    canvas.fill(whole, canvas.vertical(y0 + s.down - 1, y0 + s.down + s.lower, LOWER * 0.93, LOWER))
    upper = canvas.mask(_between(outer_top, inner_top) + CENTRE)
    canvas.fill(upper * whole, canvas.vertical(y0 - s.up - s.upper, y0 - s.up + 1, UPPER, UPPER_DARK))
    light = ellipse(x0, y0 + s.down + s.lower * 0.48, s.half * 0.36, s.lower * 0.2)
    canvas.fill(whole * canvas.mask(light, 2.2), LOWER_LIGHT, 0.85)
    bow = ellipse(x0, y0 - s.up - s.upper * 0.62, s.half * 0.3, s.upper * 0.16)
    canvas.fill(whole * canvas.mask(bow, 1.8), LOWER, 0.6)
    if s.gap > 0.4:
        _inside(canvas, mouth, s, inner_top, inner_bottom)
    line = (inner_top + inner_bottom) / 2 if s.gap < 2 else inner_top
    canvas.fill(canvas.mask(stroke(line + CENTRE, 2.2 - 0.6 * min(1.0, s.gap / 6)), 0.3), LINE, 0.85)
