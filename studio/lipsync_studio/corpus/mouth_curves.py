"""Mouth curves: phonemes with their times -> the mouth's shape over time, sampled at the video's 25 frames a second.

Each phoneme has targets for the mouth, and strengths. A curve is the strength-weighted mean of the targets under a
Gaussian, which models coarticulation: weak phonemes (h, k) take the shape of their neighbours, strong ones (m, f) do
not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from lipsync_mel.timeline import FPS, SAMPLE_RATE

Phone = tuple[str, float]  # ARPAbet name in lower case, end in seconds

# open: jaw. wide, round: lip corners. press: lips closed. bite: lower lip under the teeth. teeth: rows near each other.
MOUTH = ("open", "wide", "round", "press", "bite", "teeth", "tongue")
RATE = 200  # Hz, of the smoothing
SIGMA_SHAPE, SIGMA_LIPS = 0.036, 0.022  # s: the jaw is slower than the lips and the tongue
LONGEST_GAP = 0.12  # s, between words without a pause
LIP_GAIN = 1.35  # a closure of 60 ms still closes fully after smoothing

# open, wide, round, press, bite, teeth, tongue; strength of open; strength of wide and round
TARGETS: dict[str, tuple[float, ...]] = {
    "aa": (0.95, 0.25, 0.05, 0, 0, 0.1, 0.15, 1.2, 1.0),
    "ae": (0.85, 0.6, 0, 0, 0, 0.2, 0.2, 1.2, 1.0),
    "ah": (0.65, 0.3, 0, 0, 0, 0.15, 0.15, 1.0, 0.8),
    "ao": (0.75, 0, 0.5, 0, 0, 0.05, 0.1, 1.2, 1.0),
    "ax": (0.42, 0.3, 0, 0, 0, 0.2, 0.15, 0.7, 0.4),
    "eh": (0.65, 0.55, 0, 0, 0, 0.25, 0.2, 1.1, 1.0),
    "er": (0.42, 0.05, 0.4, 0, 0, 0.3, 0.15, 0.9, 0.9),
    "ih": (0.4, 0.55, 0, 0, 0, 0.35, 0.2, 0.9, 0.9),
    "iy": (0.3, 0.95, 0, 0, 0, 0.55, 0.2, 1.0, 1.2),
    "o": (0.62, 0, 0.75, 0, 0, 0, 0.1, 1.1, 1.1),
    "uh": (0.38, 0.05, 0.6, 0, 0, 0.1, 0.1, 0.9, 1.0),
    "uw": (0.26, 0, 1.0, 0, 0, 0, 0, 1.0, 1.3),
    "w": (0.16, 0, 1.0, 0, 0, 0, 0, 0.9, 1.3),
    "y": (0.25, 0.75, 0, 0, 0, 0.4, 0.2, 0.6, 0.7),
    "r": (0.3, 0, 0.45, 0, 0, 0.3, 0.1, 0.6, 0.7),
    "l": (0.42, 0.3, 0, 0, 0, 0.1, 0.9, 0.6, 0.4),
    "p": (0.05, 0.15, 0, 1, 0, 0, 0, 0.8, 0.2),
    "f": (0.1, 0.2, 0, 0, 1, 0.2, 0, 1.0, 0.3),
    "th": (0.24, 0.3, 0, 0, 0, 0.3, 1.0, 0.8, 0.3),
    "t": (0.24, 0.35, 0, 0, 0, 0.6, 0.4, 0.6, 0.25),
    "s": (0.16, 0.5, 0, 0, 0, 1.0, 0, 1.0, 0.5),
    "sh": (0.22, 0, 0.65, 0, 0, 0.9, 0, 0.9, 0.9),
    "k": (0.3, 0.25, 0, 0, 0, 0.25, 0.1, 0.35, 0.15),
    "hh": (0.35, 0.2, 0, 0, 0, 0.1, 0.1, 0.15, 0.1),
    "pau": (0, 0, 0, 0.35, 0, 0, 0, 1.0, 0.6),
}
SAME = {"b": "p", "m": "p", "v": "f", "dh": "th", "d": "t", "n": "t", "dx": "t", "z": "s", "zh": "sh", "ch": "sh"}
SAME |= {"jh": "sh", "g": "k", "ng": "k", "nx": "k", "axr": "er", "el": "l", "en": "t", "em": "p", "hv": "hh"}
DIPHTHONGS = {"ay": ("aa", "ih"), "aw": ("aa", "uh"), "ey": ("eh", "iy"), "ow": ("o", "uw"), "oy": ("ao", "iy")}

# One character of eSpeak's IPA -> ARPAbet (diphthongs come as two characters).
IPA_VOWELS = "ə:ax ɐ:ax ʌ:ah ɑ:aa æ:ae ɛ:eh e:eh ɪ:ih i:iy ɔ:ao o:o ʊ:uh u:uw ʉ:uw ɜ:er ɚ:er a:aa ɒ:ao ᵻ:ih"
IPA_CONSONANTS = (
    "ɹ:r ɾ:d r:r ð:dh θ:th ʃ:sh ʒ:zh t:t d:d k:k ɡ:g p:p b:b m:m n:n ŋ:ng f:f v:v s:s z:z h:hh w:w ʍ:w j:y l:l ɫ:l ʔ:t"
)
IPA = {pair[0]: pair[2:] for pair in f"{IPA_VOWELS} {IPA_CONSONANTS}".split()}


def classes() -> list[str]:
    """The names of the mouth classes (visemes), "pau" among them."""
    return list(TARGETS)


def phones_from_ipa(marks: Sequence[tuple[str, float]]) -> list[Phone]:
    """eSpeak IPA characters with durations (s) -> phonemes with end times.

    A stress mark's time is added to the phoneme after it, a length mark's to the one before. A gap between words is a
    pause from `LONGEST_GAP` on.
    """
    return _with_end_times(_merged_marks(marks))


def _merged_marks(marks: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Phonemes and gaps ("gap") with their durations, stress and length marks added to them."""
    units: list[tuple[str, float]] = []
    waiting = 0.0
    for mark, duration in marks:
        name = "gap" if mark in " ^$,.;:?!-—" else IPA.get(mark)
        if mark in "ˈˌ":
            waiting += duration
        elif name is None or (name == "gap" and units and units[-1][0] == "gap"):
            if units:
                units[-1] = (units[-1][0], units[-1][1] + duration)
        else:
            units.append((name, duration + (waiting if name != "gap" else 0.0)))
            waiting = waiting if name == "gap" else 0.0
    return units


def _with_end_times(units: Sequence[tuple[str, float]]) -> list[Phone]:
    phones: list[Phone] = []
    now = 0.0
    for number, (name, duration) in enumerate(units):
        now += duration
        if name != "gap":
            phones.append((name, now))
        elif duration >= LONGEST_GAP or number in (0, len(units) - 1):
            phones.append(("pau", now))
        else:  # no pause: half of it belongs to the phoneme before, the rest to the one after
            phones[-1] = (phones[-1][0], now - duration / 2)
    return phones


def _segments(phones: Sequence[Phone]) -> list[tuple[str, float, float]]:
    """Mouth classes with begin and end in seconds. A diphthong becomes two."""
    result: list[tuple[str, float, float]] = []
    begin = 0.0
    for name, end in phones:
        parts = DIPHTHONGS.get(name, (SAME.get(name, name),))
        step = (end - begin) / len(parts)
        result += [(part, begin + i * step, begin + (i + 1) * step) for i, part in enumerate(parts)]
        begin = end
    return result


def _loudness(audio: NDArray[np.float32], ticks: int) -> NDArray[np.float64]:
    """Local level relative to the speech's loud parts, 0..1: stressed vowels open the mouth further."""
    power = np.zeros(ticks)
    step = SAMPLE_RATE // RATE
    blocks = np.square(audio[: len(audio) // step * step].reshape(-1, step).astype(np.float64)).mean(1)[:ticks]
    power[: len(blocks)] = blocks
    level = np.sqrt(gaussian_filter1d(power, 0.03 * RATE))
    return np.asarray(np.sqrt(np.clip(level / max(float(np.percentile(level, 95)), 1e-6), 0, 1)))


def mouth_curves(
    phones: Sequence[Phone], audio: NDArray[np.float32], frames: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The mouth's shape at the times i/25 s.

    Args:
        phones: phonemes of the speech in order, with end times.
        audio: the clean speech, FP32, 16 kHz: louder sounds are spoken with a wider open mouth.
        frames: number of video frames.

    Returns:
        FP32 [frames, 7] in 0..1, columns as in `MOUTH`, and INT64 [frames], the mouth class (index in `classes()`).
    """
    ticks = frames * RATE // FPS + RATE
    names = classes()
    kind = np.full(ticks, names.index("pau"))
    for name, begin, end in _segments(phones):
        kind[round(begin * RATE) : round(end * RATE)] = names.index(name if name in TARGETS else "ax")
    table = np.array([TARGETS[name] for name in names])[kind]
    curves = np.empty((ticks, len(MOUTH)))
    for column, name in enumerate(MOUTH):
        strength = table[:, 7] if name == "open" else table[:, 8] if name in ("wide", "round") else np.ones(ticks)
        sigma = RATE * (SIGMA_SHAPE if name in ("open", "wide", "round") else SIGMA_LIPS)
        weight = gaussian_filter1d(strength, sigma, mode="nearest")
        curves[:, column] = gaussian_filter1d(strength * table[:, column], sigma, mode="nearest") / weight
    curves[:, 0] *= 0.55 + 0.55 * _loudness(audio, ticks)
    curves[:, 3:5] *= LIP_GAIN
    at = np.arange(frames) * RATE // FPS
    return np.clip(curves[at], 0, 1).astype(np.float32), kind[at]
