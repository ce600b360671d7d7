"""The networks that already listen to the shipped encoder. Refined features must tell them the mouth.

These are the articulation probe and the audio branch of a shipped U-Net. Both are frozen. A linear head on the branch
learns to predict the probe's curves from the shipped features, so it says which mouth the U-Net draws.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lipsync_client.console import notes
from lipsync_mel.timeline import ROWS_PER_FRAME
from lipsync_studio.corpus.features import SpokenFrames
from lipsync_studio.corpus.mouth_curves import MOUTH
from lipsync_studio.networks import AUDIO_CHANNELS, AudioBranch
from lipsync_studio.training.runs import learning_rate, optimize

BATCH, PEAK = 64, 2e-3


class FrozenListeners(nn.Module):
    """Feature rows of frames `[N,16,512]` -> curves `[N,7]`, as the probe predicts and as the U-Net understands them.

    Args:
        probe: the shipped articulation probe.
        branch: a shipped U-Net's audio branch.
    """

    def __init__(self, probe: nn.Module, branch: AudioBranch) -> None:
        super().__init__()
        self.probe, self.branch = probe.eval(), branch.eval()
        self.head = nn.Conv2d(branch.conv5.out_channels, len(MOUTH), 1)

    def predicted(self, rows: Tensor) -> Tensor:
        """The probe's curves."""
        curves: Tensor = self.probe(rows)
        return curves

    def understood(self, rows: Tensor) -> Tensor:
        """The head's curves, not limited to 0..1."""
        with torch.autocast("cpu", torch.bfloat16):  # twice as fast
            branch = self.branch(rows.reshape(len(rows), AUDIO_CHANNELS, ROWS_PER_FRAME, ROWS_PER_FRAME))
        curves: Tensor = self.head(branch.float()).mean((2, 3))
        return curves

    def learn_head(self, frames: SpokenFrames, steps: int) -> float:
        """Train the head with the shipped encoder's features of these frames. Returns the last steps' error."""
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        optimizer, rng, errors = torch.optim.AdamW(self.head.parameters(), lr=PEAK), np.random.default_rng(5), []
        for step in range(steps):
            picked = [frames.audio(frames.pick(rng)) for _ in range(BATCH)]
            rows = torch.from_numpy(np.stack(picked).reshape(BATCH, ROWS_PER_FRAME, -1))
            loss = (self.predicted(rows) - self.understood(rows)).square().mean()
            optimize(optimizer, loss, [learning_rate(step, steps, PEAK)])
            errors.append(loss.item())
        self.requires_grad_(False)
        last = float(np.mean(errors[-20:]))
        notes.print(f"the head understands the branch with an error of {last**0.5:.3f} of a curve's range")
        return last
