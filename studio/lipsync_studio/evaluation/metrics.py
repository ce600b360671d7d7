"""Metrics as pure functions: speech envelope, correlation and lag, pauses, closures, and differences of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsync_mel.timeline import FPS, SAMPLES_PER_FRAME

Curve = NDArray[np.float64]
Picture = NDArray[np.uint8]
Span = tuple[int, int]  # first frame, one after the last

ENVELOPE_WINDOW = 1920  # samples, 120 ms, Hann: about the rise of a syllable
LOUDNESS = 0.3  # exponent from power to perceived loudness (Stevens)
QUIET = -25.0  # dB below the loud parts: a pause, from `PAUSE` frames on
PAUSE = 8  # frames, more than 0.3 s
SETTLE = 3  # frames at both ends of a pause, in which the lips are still closing or already opening
MAX_LAG = 8  # frames


def level(speech: NDArray[np.float32], frames: int) -> Curve:
    """Loudness around each frame's time, dB relative to the speech's 95th percentile, [frames].

    Power under a Hann window of 120 ms centred on i/25 s.
    """
    window = np.hanning(ENVELOPE_WINDOW + 1)
    padded = np.pad(np.asarray(speech, np.float64), ENVELOPE_WINDOW)
    at = np.arange(frames) * SAMPLES_PER_FRAME + ENVELOPE_WINDOW // 2
    power = np.array([window @ np.square(padded[i : i + len(window)]) for i in at]) / window.sum()
    return np.asarray(10 * np.log10(np.maximum(power / max(float(np.percentile(power, 95)), 1e-12), 1e-9)))


def envelope(speech: NDArray[np.float32], frames: int) -> Curve:
    """The speech envelope, [frames]: perceived loudness, 1 in the loud parts.

    Of loudness, amplitude and dB, loudness correlates best with the jaw opening of the phonemes.
    """
    return np.asarray(10 ** (LOUDNESS * level(speech, frames) / 10))


def best_lag(measured: Curve, expected: Curve, reach: int = MAX_LAG) -> tuple[float, float, float]:
    """Pearson correlation of two curves over their relative shift.

    Returns:
        (correlation at the best whole shift, the best shift in frames, the correlation without a shift). The shift is
        positive if `measured` comes later. It is refined by a parabola through the three values at the peak.
    """
    shifts = range(-reach, reach + 1)
    r = np.array([_correlation(*_shifted(measured, expected, shift)) for shift in shifts])
    peak = int(np.argmax(r))
    lag = float(shifts[peak])
    if 0 < peak < len(r) - 1:
        before, here, after = r[peak - 1 : peak + 2]
        bend = before - 2 * here + after
        lag += 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(r[peak]), lag, float(r[reach])


def _shifted(measured: Curve, expected: Curve, shift: int) -> tuple[Curve, Curve]:
    count = len(expected) - abs(shift)
    return measured[max(0, shift) :][:count], expected[max(0, -shift) :][:count]


def _correlation(a: Curve, b: Curve) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def pauses(speech: NDArray[np.float32], frames: int) -> list[Span]:
    """Pauses of more than 0.3 s, without the ends in which the lips move."""
    return long_runs(level(speech, frames) < QUIET)


def long_runs(flags: NDArray[np.bool_]) -> list[Span]:
    """The runs of at least `PAUSE` true frames, shortened by `SETTLE` at both ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a) + SETTLE, int(b) - SETTLE) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= PAUSE]


def phone_spans(phones: Sequence[tuple[str, float]], names: set[str], frames: int) -> list[Span]:
    """The frames of each phoneme that has one of the names: those nearest to any time of it, at least one.

    Args:
        phones: names with end times in seconds, in order.
    """
    result, begin = [], 0.0
    for name, end in phones:
        first, last = round(begin * FPS), round(end * FPS)
        if name in names and first < frames:
            result.append((first, min(max(last, first) + 1, frames)))
        begin = end
    return result


def share_reached(flags: NDArray[np.bool_], spans: Sequence[Span]) -> float:
    """Share of the spans with at least one true flag; nan if there are no spans."""
    return float(np.mean([bool(flags[a:b].any()) for a, b in spans])) if spans else float("nan")


def sudden(opening: Curve) -> NDArray[np.bool_]:
    """Frames that go more than half of the way between shut and wide open in a single step, [frames].

    Speech needs at least two frames for that. Wide open is the 95th percentile.
    """
    wide = max(float(np.percentile(opening, 95) - np.percentile(opening, 5)), 2.0)
    return np.asarray(np.abs(np.diff(opening, prepend=opening[0])) > wide / 2)


def psnr(a: Picture, b: Picture) -> float:
    """Peak signal to noise ratio of two pictures, dB."""
    error = float(np.square(a.astype(np.float64) - b).mean())
    return 10 * float(np.log10(255**2 / max(error, 1e-6)))


def ssim(a: Picture, b: Picture) -> float:
    """Structural similarity of two pictures' luma (Wang et al. 2004, Gaussian window of 1.5 pixels): 1 if equal."""
    x, y = (cv2.cvtColor(p, cv2.COLOR_BGR2GRAY).astype(np.float64) for p in (a, b))

    def local(picture: Curve) -> Curve:
        return np.asarray(cv2.GaussianBlur(picture, (11, 11), 1.5), np.float64)

    mx, my = local(x), local(y)
    vx, vy, cov = local(x * x) - mx * mx, local(y * y) - my * my, local(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(((2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())


def gmsd(a: Picture, b: Picture) -> float:
    """Gradient magnitude similarity deviation of two pictures' luma (Xue et al. 2014): 0 if equal.

    It measures what viewers notice first in a mouth: blurred, doubled or missing edges of lips and teeth. Above 0.1 the
    pictures look different.
    """
    sides = []
    for picture in (a, b):
        small = cv2.blur(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float64), (2, 2))[::2, ::2]
        gx = cv2.filter2D(small, -1, np.outer([1, 1, 1], [1, 0, -1]) / 3)
        gy = cv2.filter2D(small, -1, np.outer([1, 0, -1], [1, 1, 1]) / 3)
        sides.append(np.hypot(gx, gy))
    x, y = sides
    return float(((2 * x * y + 170) / (x * x + y * y + 170)).std())
