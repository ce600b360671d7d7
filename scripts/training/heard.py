"""What the trained encoder hears of the mouth: the targets that a U-Net can really reach.

A U-Net that must draw the true curves, which the audio features tell only with a correlation of 0.7 to 0.9, learns the
median of what may be meant: blurred, half-open mouths. The curves that the encoder's own head reads from those features
are a function of them, so pictures drawn from these can be learnt sharply.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from training.features import SpokenFrames
from training.mouth_curves import MOUTH, classes

SEEN = 4  # frames whose mouth a window must tell, the first one frame after the window's number: its middle
FIRST_SEEING = 5  # of a frame's 16 rows: rows 5 .. 8 are the windows that see it, as their 4th .. 1st frame
RARE, RARE_GAIN = ("bite", "tongue"), 1.3  # told too badly to be given their full spread


class Head(nn.Module):
    """Features `[N,512]` -> curves `[N,4,7]` at the window's middle, and scores `[N,classes]` of its sound."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, SEEN * len(MOUTH) + len(classes()))
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layers(features)
        split = SEEN * len(MOUTH)
        return torch.sigmoid(y[:, :split]).unflatten(1, (SEEN, len(MOUTH))), y[:, split:]


def load_head(checkpoint: Path) -> Head:
    """The head that was trained with the encoder (`train_encoder.py` keeps it in the same file).

    Raises:
        ValueError: the file has none: it is not a checkpoint of `train_encoder.py`.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if "head" not in state:
        raise ValueError(f"{checkpoint} has no head: give the encoder.pt that train_encoder.py wrote")
    head = Head()
    head.load_state_dict(state["head"])
    return head.eval()


@torch.no_grad()
def as_heard(frames: SpokenFrames, head: Head) -> SpokenFrames:
    """The same frames with the curves that the head hears, each in the true curve's distribution.

    A frame is heard as the mean of the four windows that see it. A mean has less spread than the truth: mouths would
    neither close nor open. So the values are mapped to the quantiles of the true curve; their order stays.
    """
    told = torch.cat([head(torch.from_numpy(rows.astype(np.float32)))[0] for rows in _blocks(frames.rows)]).numpy()
    seen = [told[frames.first_row + FIRST_SEEING + k][:, SEEN - 1 - k] for k in range(SEEN)]
    heard = np.mean(seen, axis=0)
    quantiles = np.linspace(0, 1, 201)
    for curve, name in enumerate(MOUTH):
        if name in RARE:
            heard[:, curve] = np.clip(RARE_GAIN * heard[:, curve], 0, 1)
            continue
        steps = np.quantile(heard[:, curve], quantiles) + np.arange(len(quantiles)) * 1e-9  # strictly rising
        heard[:, curve] = np.interp(heard[:, curve], steps, np.quantile(frames.curves[:, curve], quantiles))
    return replace(frames, curves=heard.astype(np.float32))


def _blocks(rows: np.ndarray, size: int = 8192) -> list[np.ndarray]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]
