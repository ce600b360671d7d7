"""The articulation probe predicts mouth curves from audio features. Its predictions are the targets of U-Net training.

The audio features determine the true mouth curves only with a correlation of 0.7 to 0.9. A U-Net that must draw the
true curves learns the median of all that fits a sound: blurred, half-open mouths. The predicted curves are a function
of the features, so a U-Net can learn sharp pictures of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lipsync_mel.timeline import ROWS_PER_FRAME
from lipsync_studio.corpus.features import SpokenFrames
from lipsync_studio.corpus.mouth_curves import MOUTH
from lipsync_studio.networks import CheckpointError

WEAK, WEAK_GAIN = ("bite", "tongue"), 1.3  # predicted too inaccurately to be given the full spread
STATE_KEY = "articulation_probe"  # of the encoder's training checkpoint


class ArticulationProbe(nn.Module):
    """A frame's 16 rows of features `[N,16,512]`, the same that a U-Net reads -> its mouth curves `[N,7]` in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Sequential(nn.Dropout(0.1), nn.Linear(512, 128), nn.ReLU())
        self.rows = nn.Sequential(
            nn.Dropout(0.1),
            nn.Linear(128 * ROWS_PER_FRAME, 384),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(384, 192),
            nn.ReLU(),
        )
        self.curves = nn.Linear(192, len(MOUTH))

    def forward(self, rows: Tensor) -> Tensor:
        return torch.sigmoid(self.curves(self.rows(self.row(rows).flatten(1))))


def rows_of_frames(rows: Tensor) -> Tensor:
    """Feature rows `[F+15,512]` -> the 16 rows that each frame reads, `[F,16,512]`."""
    return rows.unfold(0, ROWS_PER_FRAME, 1).transpose(1, 2)


def load_probe(checkpoint: Path) -> ArticulationProbe:
    """The probe that was trained with the encoder, from the encoder's checkpoint.

    Raises:
        CheckpointError: the file has none, so it is not a checkpoint of `lipsync_studio.training.encoder`.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if STATE_KEY not in state:
        raise CheckpointError(
            f"{checkpoint} has no articulation probe: give an encoder.pt of lipsync_studio.training.encoder"
        )
    probe = ArticulationProbe()
    probe.load_state_dict(state[STATE_KEY])
    return probe.eval()


@torch.no_grad()
def quantile_matched_targets(frames: SpokenFrames, probe: nn.Module, batch: int = 256) -> SpokenFrames:
    """The same frames with the probe's predicted curves, mapped to the true curves' distribution.

    Predictions have less spread than the truth, so mouths would neither close nor open fully. Each predicted curve is
    mapped to the quantiles of the true curve in speech; the order of its values stays. Silent frames keep their true
    curves, because breaths and noise must not move the mouth.
    """
    numbers = np.arange(len(frames.curves))
    parts = [numbers[at : at + batch] for at in range(0, len(numbers), batch)]
    rows = (
        torch.from_numpy(np.stack([frames.audio(n) for n in part]).reshape(-1, ROWS_PER_FRAME, 512)) for part in parts
    )
    predicted = torch.cat([probe(part) for part in rows]).numpy()
    speaking = ~frames.silent
    quantiles = np.linspace(0, 1, 201)
    for curve, name in enumerate(MOUTH):
        if name in WEAK:
            predicted[:, curve] = np.clip(WEAK_GAIN * predicted[:, curve], 0, 1)
            continue
        steps = np.quantile(predicted[speaking, curve], quantiles) + np.arange(len(quantiles)) * 1e-9  # strictly rising
        true_steps = np.quantile(frames.curves[speaking, curve], quantiles)
        predicted[:, curve] = np.interp(predicted[:, curve], steps, true_steps)
    predicted[frames.silent] = frames.curves[frames.silent]
    return replace(frames, curves=predicted.astype(np.float32))
