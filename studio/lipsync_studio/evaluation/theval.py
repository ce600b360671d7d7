"""Lip-Sync and Silent Lip Stability of THEval (Quignon et al. 2025), and the landmark distance LMD (Chen et al. 2018).

Each function gives a value for each frame, so that a comparison can tell how far the mean depends on the frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lipsync_mel.timeline import FPS, SAMPLE_RATE
from lipsync_studio.evaluation.metrics import Curve, Span
from lipsync_studio.faces.landmarks import EYES, Points, distance

# The inner edges of the lips, upper and lower, in THEval's order.
UPPER = (191, 80, 81, 82, 13, 312, 311, 310)
LOWER = (95, 88, 178, 87, 14, 317, 402, 318)
# The face mesh's points at the places of the 20 mouth landmarks of dlib, with which LMD is measured.
MOUTH = (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)
WINDOW = 0.05  # s, of the loudness
SILENCE = 0.3  # s: a shorter silence does not count
LEAST_SPEECH = 0.1  # share of the frames
Flags = NDArray[np.bool_]


def lip_opening(points: Points) -> float:
    """Mean vertical distance of the inner lips in eight places, relative to the distance of the eyes' outer corners."""
    return float(np.abs(points[list(UPPER), 1] - points[list(LOWER), 1]).mean()) / distance(points, EYES)


def mouth_landmarks(points: Points) -> Points:
    """The mouth's landmarks [20,2] with their mean in the origin, percent of the distance of the eyes' outer corners.

    LMD is published in pixels. In percent, it is that of a face whose eyes' outer corners are 100 pixels apart.
    """
    mouth = points[list(MOUTH)]
    return np.asarray((mouth - mouth.mean(0)) * 100 / distance(points, EYES))


def landmark_distance(measured: Points, true: Points) -> float:
    """LMD of a frame: mean distance of the landmarks of `mouth_landmarks`, percent of the eyes' distance."""
    return float(np.linalg.norm(measured - true, axis=1).mean())


def loudness(speech: NDArray[np.float32], frames: int) -> Curve:
    """RMS of the samples in windows of 50 ms, one after the other, interpolated at the frames' times, [frames]."""
    size = round(WINDOW * SAMPLE_RATE)
    count = 1 + len(speech) // size
    padded = np.zeros((count + 1) * size)
    padded[size // 2 : size // 2 + len(speech)] = speech
    rms = np.sqrt(np.square(padded[: count * size]).reshape(count, size).mean(1))
    return np.interp(np.arange(frames) / FPS, np.arange(count) * WINDOW, rms)


def lip_sync(opening: Curve, loud: Curve, speech: Flags) -> Curve:
    """Difference of opening and loudness, each stretched to 0 .. 1 over the frames with speech; nan in the others.

    THEval's Lip-Sync is the mean. It is nan if under a tenth of the frames has speech.
    """
    result = np.full(len(opening), np.nan)
    if speech.sum() >= 2 and speech.mean() >= LEAST_SPEECH:
        result[speech] = np.abs(_stretched(opening[speech]) - _stretched(loud[speech]))
    return result


def silent_movement(opening: Curve, speech: Flags) -> Curve:
    """|opening - its mean| in silences of at least 0.3 s; nan in other frames. THEval's stability is the median."""
    result = np.full(len(opening), np.nan)
    silent = np.zeros(len(opening), bool)
    for first, stop in silences(speech):
        silent[first:stop] = True
    if silent.sum() >= 2:
        result[silent] = np.abs(opening[silent] - opening[silent].mean())
    return result


def silences(speech: Flags) -> list[Span]:
    """The runs of at least 0.3 s without speech."""
    edges = np.flatnonzero(np.diff(np.concatenate([[1], speech.astype(np.int8), [1]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= SILENCE * FPS]


def _stretched(curve: Curve) -> Curve:
    return np.asarray((curve - curve.min()) / (np.ptp(curve) + 1e-8))
