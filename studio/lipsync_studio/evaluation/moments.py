"""Moments of a speech at which two avatars' mouths are looked at side by side."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lipsync_studio.evaluation.metrics import Curve, Span
from lipsync_studio.evaluation.recording import Recording

MOST = 8  # moments of a kind
APART = 10  # frames: closer moments show the same thing


class Moment(NamedTuple):
    """A frame of each avatar: the same one, or where a closure is looked for, each one's best within the phoneme."""

    label: str
    first: int
    second: int


class Moments(NamedTuple):
    """Moments of one kind, and what to look for."""

    title: str
    moments: list[Moment]


def moments_of(first: Recording, second: Recording) -> list[Moments]:
    """The moments of a speech that both rendered, in groups; groups without any are left out."""
    frames = min(len(first.shapes), len(second.shapes))
    loudest = first.expected()[0] if first.speech.phones else first.envelope()
    apart = np.abs(first.curve("opening")[:frames] - second.curve("opening")[:frames])
    rest = [(a + b) // 2 for a, b in first.pauses() if b <= frames] or [0]
    groups = [
        Moments("p, b, m: the lips are closed", _closures(first, second)),
        Moments("Wide: the mouth is open, the teeth are two rows", _same(peaks(loudest[:frames]))),
        Moments("Rest: the lips are closed and at ease", _same(_spread(rest))),
        Moments("Where the two differ most", _same(peaks(apart))),
    ]
    return [group for group in groups if group.moments]


def peaks(curve: Curve, most: int = MOST) -> list[int]:
    """The highest points of a curve at least `APART` frames apart, none under half of the highest, in order of time."""
    left: Curve = curve.astype(np.float64)
    found: list[int] = []
    least = left.max(initial=0.0) / 2
    while len(found) < most and left.max(initial=0.0) > least:
        frame = int(np.argmax(left))
        found.append(frame)
        left[max(frame - APART + 1, 0) : frame + APART] = 0
    return sorted(found)


def _closures(first: Recording, second: Recording) -> list[Moment]:
    names = first.closure_names()
    spans = [span for span in zip(first.closures(), names, strict=True) if span[0][1] <= len(second.shapes)]
    chosen = [spans[i] for i in _spread(list(range(len(spans))))]
    return [Moment(name, _most_closed(first, span), _most_closed(second, span)) for span, name in chosen]


def _most_closed(r: Recording, span: Span) -> int:
    openness = np.maximum(r.curve("opening"), r.curve("gap"))
    return span[0] + int(np.argmin(openness[span[0] : span[1]]))


def _same(frames: list[int]) -> list[Moment]:
    return [Moment("", frame, frame) for frame in frames]


def _spread(items: list[int]) -> list[int]:
    """At most `MOST` of them, evenly."""
    if len(items) <= MOST:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, MOST).round().astype(int).tolist()]
