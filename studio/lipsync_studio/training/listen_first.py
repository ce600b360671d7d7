"""A head start for the U-Net's audio branch: it learns what a mouth does before there are any pictures.

Pictures cost a hundred times as much as audio features, so a branch that starts from nothing learns to listen slowly.
Here it must tell the mouth's curves at every place of its output, through a 1x1 convolution that is thrown away.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from lipsync_studio.corpus.features import SpokenFrames
from lipsync_studio.corpus.mouth_curves import MOUTH
from lipsync_studio.networks import AudioBranch
from lipsync_studio.training.runs import Stop, console, device_of, learning_rate, mixed, steps_with_progress

BATCH, PEAK = 48, 2e-3
WEIGHTS = torch.tensor([2.0, 1.0, 1.5, 2.0, 1.5, 0.7, 0.7])  # as in MOUTH


def listen_first(branch: AudioBranch, spoken: SpokenFrames, steps: int, stop: Stop) -> None:
    """Train the branch for some steps, in place."""
    device = device_of(branch)
    head = nn.Conv2d(branch.bn5.num_features, len(MOUTH), 1).to(device)
    parameters = [*branch.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK, weight_decay=0.02)
    branch.train()
    rng, notes = np.random.default_rng(11), {"curves": 0.0}
    for step in steps_with_progress(0, steps, notes, stop):
        picked = [spoken.pick(rng) for _ in range(BATCH)]
        audio = torch.from_numpy(np.stack([spoken.audio(frame) for frame in picked])).to(device)
        curves = torch.from_numpy(spoken.curves[picked]).to(device)[:, :, None, None]
        with mixed(device):
            everywhere = head(branch(audio)).float()
        together = everywhere.mean((2, 3), keepdim=True)
        error = (together - curves).square() + 0.3 * (everywhere - curves).square().mean((2, 3), keepdim=True)
        loss = (error[:, :, 0, 0] * WEIGHTS.to(device)).mean()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, PEAK)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        notes["curves"] = notes["curves"] * 0.95 + loss.item() * 0.05 if step else loss.item()
        if step % 50 == 49:
            r = np.corrcoef(together[:, 0, 0, 0].detach().cpu().numpy(), curves[:, 0, 0, 0].cpu().numpy())[0, 1]
            console.print(f"listening {step + 1} of {steps}: {notes['curves']:.4f}, opening r {r:.2f}")
