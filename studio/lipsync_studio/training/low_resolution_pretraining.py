"""Low-resolution pretraining: all but the U-Net's last two stages learn from pictures of a quarter of the size.

The last two stages take most of the time and only refine. Here the stage before them must already show the face, 80x80,
through a 1x1 convolution that is discarded afterwards. So the network learns which mouth belongs to which sound at a
fraction of the cost.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipsync_client.console import notes
from lipsync_studio.networks import UNet
from lipsync_studio.training.runs import (
    Stop,
    device_of,
    learning_rate,
    mixed_precision,
    optimize,
    steps_with_progress,
)
from lipsync_studio.training.stages import Stage, Stateful
from lipsync_studio.training.unet_examples import Source, batch_of, picture_loss

FACES, PEAK = 6, 2e-3
BRANCH_SHARE = 0.2  # of the rate for the audio branch: it was pretrained on far more speech than there are pictures


def low_resolution_features(network: UNet, pictures: Tensor, audio: Tensor) -> Tensor:
    """The output of the third of five upward stages, [N*K, c1/2, 80, 80]."""
    skips = [network.inc(pictures)]
    for down in (network.down1, network.down2, network.down3, network.down4, network.down5):
        skips.append(down(skips[-1]))
    skips = [skip.repeat_interleave(len(audio) // len(pictures), 0) for skip in skips[2:]]
    x: Tensor = network.fuse_conv(torch.cat([skips.pop(), network.audio_model(audio)], dim=1))
    for up in (network.up1, network.up2, network.up3):
        x = up(x, skips.pop())
    return x


def pretrain_low_resolution(network: UNet, source: Source, steps: int, stop: Stop, stage: Stage | None = None) -> None:
    """Train all but the last two stages for some steps, in place, or continue from the stage's checkpoint."""
    stage = stage or Stage("low-resolution pretraining")
    device = device_of(network)
    head = nn.Conv2d(network.widths[1] // 2, 3, 1).to(device)
    branch = [*network.audio_model.parameters()]
    others = [p for name, p in network.named_parameters() if not name.startswith("audio_model.")] + [*head.parameters()]
    optimizer = torch.optim.AdamW([{"params": others}, {"params": branch}], weight_decay=0.01)
    weights = functional.avg_pool2d(source.regions.weights()[None], 4)[0].to(device)
    network.train()
    parts: dict[str, Stateful] = {"network": network, "head": head, "optimizer": optimizer}
    shown, first = {"error": 0.0}, stage.restore(steps, parts)
    done = first
    for step in steps_with_progress(first, steps, shown, stop, stage.title, stage.later):
        rng = np.random.default_rng([2, step])
        pictures, audio, target = batch_of([source.example(rng) for _ in range(FACES)], source.regions.mask, device)
        with mixed_precision(device):
            x = low_resolution_features(network, pictures, audio)
        loss = picture_loss(torch.sigmoid(head(x.float())), functional.avg_pool2d(target, 4), weights)
        rate = learning_rate(step, steps, PEAK)
        optimize(optimizer, loss, [rate, BRANCH_SHARE * rate])
        value = loss.item()
        shown["error"] = shown["error"] * 0.95 + value * 0.05 if step > first else value
        done = step + 1
        stage.save(done, parts)
        if step % 50 == 49:
            notes.print(f"low-resolution pretraining, step {step + 1} of {steps}: loss {shown['error']:.4f}")
    if done > first:
        stage.save(done, parts, now=True)
