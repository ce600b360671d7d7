"""Figures of a recording that keep each frame's share, so that two recordings of one speech can be compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lipsync_studio.evaluation import metrics
from lipsync_studio.evaluation.metrics import Curve
from lipsync_studio.evaluation.recording import CurveName, Recording

Columns = NDArray[np.float64]  # [frames,columns]; nan where a frame does not count
Statistic = Callable[[Columns], float]
BLOCK = 25  # frames: about a word or two, longer than neighbouring frames depend on each other
DRAWS = 1000
SURE = 99.0  # percent: a page has some twenty figures, of which one in twenty would differ at 95 % by chance


class Figure(NamedTuple):
    """A figure of a recording: a statistic of what each frame contributes."""

    name: str
    better: Literal["higher", "lower", ""]  # "" where neither is better in itself
    statistic: Statistic
    columns: Columns

    @property
    def value(self) -> float:
        """The figure; nan if no frame counts."""
        return self.statistic(self.columns)


class Difference(NamedTuple):
    """A figure of two recordings of the same speech."""

    name: str
    better: Literal["higher", "lower", ""]
    first: float
    second: float
    low: float  # limits of the difference second - first that other seconds of such speech would give
    high: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the difference has the same sign nearly wherever one looks."""
        return bool(self.low > 0 or self.high < 0)


def mean(columns: Columns) -> float:
    """Mean of the only column."""
    known = columns[np.isfinite(columns)]
    return float(known.mean()) if len(known) else float("nan")


def median(columns: Columns) -> float:
    """Median of the only column."""
    known = columns[np.isfinite(columns)]
    return float(np.median(known)) if len(known) else float("nan")


def correlation(columns: Columns) -> float:
    """Pearson's correlation of two columns, where both are known."""
    known = columns[np.isfinite(columns).all(1)]
    if not len(known):
        return float("nan")
    a, b = (known - known.mean(0)).T
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else float("nan")


def figures(r: Recording) -> list[Figure]:
    """The figures of a recording; those that its speech does not allow are left out."""
    frames = len(r.shapes)
    found: list[Figure] = []

    def add(name: str, better: Literal["higher", "lower", ""], statistic: Statistic, *columns: Curve) -> None:
        if all(len(column) for column in columns):
            full = [np.concatenate([np.full(frames - len(c), np.nan), c]) for c in columns]
            figure = Figure(name, better, statistic, np.stack(full, 1).astype(np.float64))
            if np.isfinite(figure.value):
                found.append(figure)

    if {name for name, _ in r.speech.phones} - {"pau"}:
        opening, width = r.expected()
        add("opening by landmarks / phonemes, r", "higher", correlation, *_aligned(r, "opening", opening))
        add("opening by colours / phonemes, r", "higher", correlation, *_aligned(r, "gap", opening))
        add("width / phonemes, r", "higher", correlation, *_aligned(r, "width", width))
        add("p, b, m with closed lips, %", "higher", mean, _reached(r.closed(), r.closures()))
    if r.speech.film:
        for name in ("opening", "width"):
            add(f"{name} / the filmed person's, r", "higher", correlation, *_aligned(r, name, r.filmed(name)))
    add("opening by landmarks / envelope, r", "", correlation, *_aligned(r, "opening", r.envelope()))
    add("pauses with closed lips, % of frames", "higher", mean, _inside(100.0 * r.closed(), r.pauses()))
    add("mean opening, % of eyes", "", mean, r.curve("opening"))
    add("opened or closed at once, % of frames", "lower", mean, 100.0 * metrics.sudden(r.curve("opening")))
    add("contrast between the lips while closing", "higher", mean, r.closing_contrast())
    add("THEval Lip-Sync (people 0.253)", "", mean, r.lip_sync())
    add("THEval Silent Lip Stability (people 0.026)", "", median, r.silent_movement())
    add("LMD against the truth, % of eyes", "lower", mean, r.landmark_distances())
    add("GMSD of the mouth against the truth", "lower", mean, np.array(r.gmsd))
    add("CPBD of the face (1 is sharp)", "higher", mean, np.array(r.sharpness))
    add("mean change near the mouth, levels", "", mean, np.array(r.patch.movement))
    add("flicker near the mouth, levels", "lower", mean, np.array(r.patch.flicker))
    return found


def differences(first: Recording, second: Recording) -> list[Difference]:
    """The figures that both recordings of one speech have, and how far their difference depends on the frames.

    Blocks of one second are drawn with replacement, the same ones of both recordings (paired block bootstrap). The
    limits enclose 99 % of the differences of the draws.
    """
    others = {figure.name: figure for figure in figures(second)}
    pairs = [(a, others[a.name]) for a in figures(first) if a.name in others]
    draws = _draws(min(len(first.shapes), len(second.shapes)))
    return [_difference(a, b, draws) for a, b in pairs]


def _difference(a: Figure, b: Figure, draws: list[NDArray[np.int64]]) -> Difference:
    drawn = np.array([b.statistic(b.columns[frames]) - a.statistic(a.columns[frames]) for frames in draws])
    known = drawn[np.isfinite(drawn)]
    low, high = np.percentile(known, (50 - SURE / 2, 50 + SURE / 2)).tolist() if len(known) else (0.0, 0.0)
    return Difference(a.name, a.better, a.value, b.value, low, high)


def _draws(frames: int) -> list[NDArray[np.int64]]:
    """Frame numbers of the draws, each of about `frames` frames."""
    random = np.random.default_rng(0)
    size = min(BLOCK, frames)
    firsts = random.integers(0, frames - size + 1, (DRAWS, -(-frames // size)))
    return [(row[:, None] + np.arange(size)).ravel() for row in firsts]


def _aligned(r: Recording, name: CurveName, expected: Curve) -> tuple[Curve, Curve]:
    """A curve and what is expected of it, shifted to each other as they fit best; the ends are cut."""
    measured = r.curve(name)
    lag = round(metrics.best_lag(measured, expected)[1])
    count = min(len(measured), len(expected)) - abs(lag)
    return measured[max(lag, 0) :][:count], expected[max(-lag, 0) :][:count]


def _reached(flags: NDArray[np.bool_], spans: list[metrics.Span]) -> Curve:
    """100 or 0 in the first frame of each span, whether a flag in it is set; nan elsewhere."""
    result = np.full(len(flags), np.nan)
    for first, stop in spans:
        result[first] = 100.0 * flags[first:stop].any()
    return result


def _inside(values: Curve, spans: list[metrics.Span]) -> Curve:
    result = np.full(len(values), np.nan)
    for first, stop in spans:
        result[first:stop] = values[first:stop]
    return result
