"""What can be heard of the mouth in an encoder's features: the targets that a U-Net can really reach.

A U-Net that must draw the true curves, which the audio features tell only with a correlation of 0.7 to 0.9, learns the
median of what may be meant: blurred, half-open mouths. The curves that a small network, the listener, tells from those
features are a function of them, so pictures drawn from these can be learnt sharply.
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

RARE, RARE_GAIN = ("bite", "tongue"), 1.3  # told too badly to be given their full spread


class Listener(nn.Module):
    """A frame's 16 rows of features `[N,16,512]`, what a U-Net is given -> its curves `[N,7]`."""

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


def of_each_frame(rows: Tensor) -> Tensor:
    """Feature rows `[F+15,512]` -> the 16 that each frame reads, `[F,16,512]`."""
    return rows.unfold(0, ROWS_PER_FRAME, 1).transpose(1, 2)


def load_listener(checkpoint: Path) -> Listener:
    """The listener that was trained with the encoder (`train_encoder.py` keeps it in the same file).

    Raises:
        ValueError: the file has none: it is not a checkpoint of `train_encoder.py`.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if "listener" not in state:
        raise ValueError(f"{checkpoint} has no listener: give the encoder.pt that train_encoder.py wrote")
    listener = Listener()
    listener.load_state_dict(state["listener"])
    return listener.eval()


@torch.no_grad()
def as_heard(frames: SpokenFrames, listener: Listener, batch: int = 256) -> SpokenFrames:
    """The same frames with the curves that the listener hears, each in the true curve's distribution.

    What is heard has less spread than the truth: mouths would neither close nor open. So the values are mapped to the
    quantiles that the true curve has in speech; their order stays. In silence a mouth rests, whatever is heard:
    breaths, noise.
    """
    numbers = np.arange(len(frames.curves))
    parts = [numbers[at : at + batch] for at in range(0, len(numbers), batch)]
    rows = (
        torch.from_numpy(np.stack([frames.audio(n) for n in part]).reshape(-1, ROWS_PER_FRAME, 512)) for part in parts
    )
    heard = torch.cat([listener(part) for part in rows]).numpy()
    speaking = ~frames.silent
    quantiles = np.linspace(0, 1, 201)
    for curve, name in enumerate(MOUTH):
        if name in RARE:
            heard[:, curve] = np.clip(RARE_GAIN * heard[:, curve], 0, 1)
            continue
        steps = np.quantile(heard[speaking, curve], quantiles) + np.arange(len(quantiles)) * 1e-9  # strictly rising
        heard[:, curve] = np.interp(heard[:, curve], steps, np.quantile(frames.curves[speaking, curve], quantiles))
    heard[frames.silent] = frames.curves[frames.silent]
    return replace(frames, curves=heard.astype(np.float32))
