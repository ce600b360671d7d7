"""Validation of an audio encoder during its training: predicted mouth curves of a held-out voice and of real speech."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from lipsync_studio.corpus.mouth_curves import MOUTH, Phone, mouth_curves
from lipsync_studio.corpus.speech_data import Speech, encoder_rows, read_wav
from lipsync_studio.networks import AudioEncoder
from lipsync_studio.training.articulation_probe import ArticulationProbe, rows_of_frames
from lipsync_studio.training.frozen_listeners import FrozenListeners

Curves = NDArray[np.float32]  # [frames,7], see `mouth_curves.MOUTH`


@torch.no_grad()
def predict(
    network: AudioEncoder, probe: ArticulationProbe, filterbank: csr_matrix, audio: NDArray[np.float32]
) -> Curves:
    """The probe's curves for a speech."""
    network.eval()
    probe.eval()
    windows, inside = encoder_rows(filterbank, audio)
    features = network(torch.from_numpy(windows)) * torch.from_numpy(inside)
    return np.asarray(probe(rows_of_frames(features)).numpy())


def closures_reached(curves: Curves, phones: Sequence[Phone]) -> list[bool]:
    """For each p, b and m: whether the lips are pressed at some time of it."""
    begins = [0.0, *(end for _, end in phones)]
    spans = [(b, end) for b, (name, end) in zip(begins, phones, strict=False) if name in ("p", "b", "m")]
    press = MOUTH.index("press")
    return [bool(curves[int(begin * 25) : math.ceil(end * 25) + 1, press].max() > 0.5) for begin, end in spans]


def loudness(audio: NDArray[np.float32], frames: int) -> NDArray[np.float64]:
    """Level of a speech around each frame's time, dB relative to its loud parts, [frames]."""
    padded = np.pad(audio.astype(np.float64), 800)
    power = np.array([np.square(padded[at + 320 : at + 1280]).mean() for at in np.arange(frames) * 640])
    return np.asarray(10 * np.log10(power / np.percentile(power, 95) + 1e-5))


def correlation_with_loudness(opening: NDArray[np.float32], audio: NDArray[np.float32]) -> tuple[float, float]:
    """(r of the opening with the loudness, mean opening in pauses longer than 0.3 s, nan if there are none)."""
    level = loudness(audio, len(opening))
    pauses = np.convolve(level < -30, np.ones(8), "same") > 7.5
    rest = float(opening[pauses].mean()) if pauses.any() else math.nan
    return float(np.corrcoef(opening, np.sqrt(10 ** (np.clip(level, -40, 3) / 20)))[0, 1]), rest


def validation_summary(
    network: AudioEncoder,
    probe: ArticulationProbe,
    filterbank: csr_matrix,
    held_out: Sequence[Speech],
    real: Sequence[Path],
) -> str:
    """A held-out voice: correlation of each curve, closures of p, b, m. Real speech: opening against loudness."""
    predicted = [predict(network, probe, filterbank, speech.audio) for speech in held_out]
    true = [mouth_curves(speech.phones, speech.audio, speech.frames)[0] for speech in held_out]
    reached = list(chain(*(closures_reached(c, s.phones) for c, s in zip(predicted, held_out, strict=True))))
    x, y = np.concatenate(predicted), np.concatenate(true)
    parts = [f"{name} {np.corrcoef(x[:, i], y[:, i])[0, 1]:.2f}" for i, name in enumerate(MOUTH)]
    parts.append(f"pbm {np.mean(reached):.2f}")
    for path in real:
        audio = read_wav(path)
        r, rest = correlation_with_loudness(predict(network, probe, filterbank, audio)[:, 0], audio)
        parts.append(f"[{path.stem[-12:]} r {r:.2f} rest {rest:.2f}]")
    return " ".join(parts)


@torch.no_grad()
def refinement_summary(
    network: AudioEncoder, listeners: FrozenListeners, filterbank: csr_matrix, tests: Mapping[str, Sequence[Speech]]
) -> str:
    """Each group of speeches: what the U-Net's branch understands, against the phonemes' curves."""
    network.eval()
    parts = []
    for name, speeches in tests.items():
        found, reached = [], []
        for speech in speeches:
            windows, inside = encoder_rows(filterbank, speech.audio)
            rows = rows_of_frames(network(torch.from_numpy(windows)) * torch.from_numpy(inside))
            understood, predicted = listeners.understood(rows).numpy(), listeners.predicted(rows).numpy()
            true = mouth_curves(speech.phones, speech.audio, speech.frames)[0]
            found.append(np.concatenate([understood, predicted, true], 1))
            reached += closures_reached(understood, speech.phones)
        each = np.concatenate(found)
        r = [[np.corrcoef(each[:, i + side], each[:, i + 14])[0, 1] for i in (0, 1, 2, 3)] for side in (0, 7)]
        shown = " ".join(f"{curve} {a:.3f}/{b:.3f}" for curve, a, b in zip(MOUTH, *r, strict=False))
        parts.append(f"[{name} {shown} pbm {np.mean(reached):.2f}]")
    return " ".join(parts).replace("[", "\n  ").replace("]", "")
