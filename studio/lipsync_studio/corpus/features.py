"""Training data of a U-Net: for every frame of the corpus, its 16 rows of audio features and its mouth curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from scipy.sparse import csr_matrix
from torch import nn

from lipsync_client.console import notes
from lipsync_mel.timeline import ROWS_PER_FRAME
from lipsync_studio.corpus import augmentation
from lipsync_studio.corpus.mouth_curves import classes, mouth_curves
from lipsync_studio.corpus.speech_data import Speech, encoder_rows


@dataclass(frozen=True)
class SpokenFrames:
    """Frames of many speeches. `rows` FP16 [R,512] holds all speeches' feature rows, one speech after the other."""

    rows: NDArray[np.float16]
    first_row: NDArray[np.int64]  # [N]: frame n reads rows first_row[n] .. first_row[n]+15
    curves: NDArray[np.float32]  # [N,7], see mouth_curves.MOUTH
    silent: NDArray[np.bool_]  # [N]

    def audio(self, frame: int) -> NDArray[np.float32]:
        """FP32 [32,16,16], the U-Net's audio input."""
        first = self.first_row[frame]
        return self.rows[first : first + ROWS_PER_FRAME].astype(np.float32).reshape(32, 16, 16)

    @cached_property
    def _kinds(self) -> tuple[NDArray[np.int64], ...]:
        """Frame numbers by kind: at an end of a speech (with rows outside the feature list), silent, other."""
        edge = ~(self.rows[self.first_row].any(1) & self.rows[self.first_row + ROWS_PER_FRAME - 1].any(1))
        return tuple(map(np.flatnonzero, (edge, self.silent & ~edge, ~self.silent & ~edge)))

    def pick(self, rng: np.random.Generator, edge: float = 0.2, silence: float = 0.2) -> int:
        """A random frame. Ends of speeches and silence have fixed shares: errors there are rare and seen at once."""
        which = int(np.searchsorted([edge, edge + silence], rng.random(), side="right"))
        return int(rng.choice(self._kinds[which]))


@torch.no_grad()
def encode(
    encoder: nn.Module, filterbank: csr_matrix, audio: NDArray[np.float32], rng: np.random.Generator | None = None
) -> NDArray[np.float32]:
    """Feature rows of a speech, FP32 [frames+15, 512], zeros outside the feature list.

    Args:
        encoder: maps windows [N,1,80,16] to features [N,512].
        rng: perturbs vocal-tract length and timbre; None leaves the voice as it is.
    """
    windows, inside = encoder_rows(filterbank, audio)
    if rng:
        windows = augmentation.perturb_vocal_tract(windows, *rng.uniform(0.9, 1.12, 3))
        windows = augmentation.perturb_timbre(windows, rng)
    with torch.autocast("cpu", torch.bfloat16):  # twice as fast, features off by less than 1 %
        features = encoder(torch.from_numpy(windows)).float()
    return np.asarray((features * torch.from_numpy(inside)).numpy())


def spoken_frames(
    corpus: list[Speech], encoder: nn.Module, filterbank: csr_matrix, count: int, seed: int, augmented: float = 0.7
) -> SpokenFrames:
    """Features and curves of `count` speeches of the corpus, each with pauses around it.

    Args:
        augmented: probability of each augmentation: breaths, noise and channel, voice.
    """
    rng = np.random.default_rng(seed)
    encoder.eval()
    rows, first, curves, silent, begin = [], [], [], [], 0
    order = [corpus[i % len(corpus)] for i in rng.permutation(max(count, len(corpus)))[:count]]
    for original in track(order, description="encoding speech", console=notes):
        speech = augmentation.change_speed(original, rng.uniform(0.88, 1.15))
        speech = augmentation.add_silence(speech, rng.uniform(0, 0.8), rng.uniform(0.1, 0.8))
        shapes, kind = mouth_curves(speech.phones, speech.audio, speech.frames)
        audio = augmentation.add_breaths(speech, rng).audio if rng.random() < augmented else speech.audio
        audio = augmentation.add_noise_and_channel(audio, rng) if rng.random() < augmented else audio
        features = encode(encoder, filterbank, audio, rng if rng.random() < augmented else None)
        rows.append(features.astype(np.float16))
        first.append(begin + np.arange(speech.frames))
        curves.append(shapes)
        silent.append((kind == classes().index("pau")) & (shapes[:, 0] < 0.05))
        begin += len(features)
    return SpokenFrames(np.concatenate(rows), np.concatenate(first), np.concatenate(curves), np.concatenate(silent))


def load_or_make(path: Path, make: Callable[[], SpokenFrames]) -> SpokenFrames:
    """The frames stored at `path` (.npz). If there is no such file, the result of `make()` is stored there first."""
    if not path.exists():
        frames = make()
        np.savez(path, rows=frames.rows, first_row=frames.first_row, curves=frames.curves, silent=frames.silent)
    with np.load(path) as stored:
        return SpokenFrames(**{name: stored[name] for name in ("rows", "first_row", "curves", "silent")})
