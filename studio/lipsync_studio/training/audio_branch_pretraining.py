"""Audio-branch pretraining: the U-Net's audio branch learns to predict mouth curves before it sees any pictures.

A step with pictures costs a hundred times as much as one with audio features alone, so this first stage saves most of
the time in which the branch learns to use the sound. Every position of its output must predict the curves, through a
1x1 convolution that is discarded afterwards.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from lipsync_client.console import notes
from lipsync_studio.corpus.features import SpokenFrames
from lipsync_studio.corpus.mouth_curves import MOUTH
from lipsync_studio.networks import AudioBranch
from lipsync_studio.training.runs import (
    Stop,
    device_of,
    learning_rate,
    mixed_precision,
    optimize,
    steps_with_progress,
)
from lipsync_studio.training.stages import Stage, Stateful

BATCH, PEAK = 48, 2e-3
WEIGHTS = torch.tensor([2.0, 1.0, 1.5, 2.0, 1.5, 0.7, 0.7])  # as in MOUTH


def pretrain_audio_branch(
    branch: AudioBranch, spoken: SpokenFrames, steps: int, stop: Stop, stage: Stage | None = None
) -> None:
    """Train the branch for some steps, in place, or continue from the stage's checkpoint."""
    stage = stage or Stage("audio-branch pretraining")
    device = device_of(branch)
    head = nn.Conv2d(branch.bn5.num_features, len(MOUTH), 1).to(device)
    parameters = [*branch.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK, weight_decay=0.02)
    branch.train()
    parts: dict[str, Stateful] = {"branch": branch, "head": head, "optimizer": optimizer}
    rng, shown, first = np.random.default_rng(11), {"error": 0.0}, stage.restore(steps, parts)
    for _ in range(first * BATCH):
        spoken.pick(rng)  # so that a continued training sees the same examples
    done = first
    for step in steps_with_progress(first, steps, shown, stop, stage.title, stage.later):
        picked = [spoken.pick(rng) for _ in range(BATCH)]
        audio = torch.from_numpy(np.stack([spoken.audio(frame) for frame in picked])).to(device)
        curves = torch.from_numpy(spoken.curves[picked]).to(device)[:, :, None, None]
        with mixed_precision(device):
            everywhere = head(branch(audio)).float()
        together = everywhere.mean((2, 3), keepdim=True)
        error = (together - curves).square() + 0.3 * (everywhere - curves).square().mean((2, 3), keepdim=True)
        loss = (error[:, :, 0, 0] * WEIGHTS.to(device)).mean()
        optimize(optimizer, loss, [learning_rate(step, steps, PEAK)])
        shown["error"] = shown["error"] * 0.95 + loss.item() * 0.05 if step > first else loss.item()
        done = step + 1
        stage.save(done, parts)
        if step % 50 == 49:
            r = np.corrcoef(together[:, 0, 0, 0].detach().cpu().numpy(), curves[:, 0, 0, 0].cpu().numpy())[0, 1]
            notes.print(
                f"audio-branch pretraining, step {step + 1} of {steps}: loss {shown['error']:.4f}, opening r {r:.2f}"
            )
    if done > first:
        stage.save(done, parts, now=True)
