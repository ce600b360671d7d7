"""The U-Net's head start: which mouth belongs to which sound, learnt from pictures of a quarter of the size.

The last two stages of the U-Net take most of its time and only refine. Here the stage before them must already show the
face, 80x80, through a 1x1 convolution that is thrown away.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipsync_studio.networks import UNet
from lipsync_studio.training.runs import Stop, console, device_of, learning_rate, mixed, steps_with_progress
from lipsync_studio.training.unet_examples import Source, batch_of, picture_loss

FACES, PEAK = 6, 2e-3


def coarse(network: UNet, pictures: Tensor, audio: Tensor) -> Tensor:
    """The third of five upward stages, [N*K, c1/2, 80, 80]."""
    skips = [network.inc(pictures)]
    for down in (network.down1, network.down2, network.down3, network.down4, network.down5):
        skips.append(down(skips[-1]))
    skips = [skip.repeat_interleave(len(audio) // len(pictures), 0) for skip in skips[2:]]
    x = network.fuse_conv(torch.cat([skips.pop(), network.audio_model(audio)], dim=1))
    for up in (network.up1, network.up2, network.up3):
        x = up(x, skips.pop())
    return x


def coarse_first(network: UNet, source: Source, steps: int, stop: Stop) -> None:
    """Train all but the last two stages for some steps, in place."""
    device = device_of(network)
    head = nn.Conv2d(network.widths[1] // 2, 3, 1).to(device)
    branch = [*network.audio_model.parameters()]  # it has learnt to listen from far more speech than there are pictures
    others = [p for name, p in network.named_parameters() if not name.startswith("audio_model.")] + [*head.parameters()]
    optimizer = torch.optim.AdamW([{"params": others}, {"params": branch}], weight_decay=0.01)
    weights = functional.avg_pool2d(source.places.weights()[None], 4)[0].to(device)
    network.train()
    notes = {"coarse": 0.0}
    for step in steps_with_progress(0, steps, notes, stop):
        rng = np.random.default_rng([2, step])
        pictures, audio, target = batch_of([source.example(rng) for _ in range(FACES)], source.places.mask, device)
        with mixed(device):
            x = coarse(network, pictures, audio)
        loss = picture_loss(torch.sigmoid(head(x.float())), functional.avg_pool2d(target, 4), weights)
        for group, share in zip(optimizer.param_groups, (1.0, 0.2), strict=True):
            group["lr"] = share * learning_rate(step, steps, PEAK)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others + branch, 1.0)
        optimizer.step()
        notes["coarse"] = notes["coarse"] * 0.95 + loss.item() * 0.05 if step else loss.item()
        if step % 50 == 49:
            console.print(f"coarse {step + 1} of {steps}: {notes['coarse']:.4f}")
