"""Trains a head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from lipsync_studio.distillation.examples import Batch, Examples
from lipsync_studio.distillation.head import Head
from lipsync_studio.training.runs import (
    Stop,
    learning_rate,
    load_checkpoint,
    optimize,
    save_checkpoint,
    steps_with_progress,
)
from lipsync_studio.training.unet_examples import BLOCK

BATCH = 4
PEAK = 3e-3
EVERY = 100  # steps between checkpoints
SQUARES = 16.0  # weight of squared errors: a wrong mouth counts more than noise
TINT = 4.0  # weight of the errors' means over blocks: small in each pixel, but a face at rest shimmers with them


class HeadTraining:
    """A head with its optimizer and its checkpoint; it continues from that.

    Attributes:
        step: how many steps are done.
    """

    def __init__(self, head: Head, path: Path) -> None:
        self.head, self.step, self._path = head, 0, path
        head.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # twice as fast
        self._optimizer = torch.optim.AdamW(head.parameters(), lr=PEAK, weight_decay=1e-4)
        if state := load_checkpoint(path):
            head.load_state_dict(state["state_dict"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["step"])

    def save(self) -> None:
        state = {"state_dict": self.head.state_dict(), "optimizer": self._optimizer.state_dict(), "step": self.step}
        save_checkpoint(self._path, state)

    def train_step(self, batch: Batch, inner: tuple[slice, slice], steps: int) -> float:
        """Do one of `steps` steps. Returns the mean square error inside."""
        part = (slice(None), slice(None), *inner)
        error = (self.head(batch.half, batch.crop) - batch.target)[part]
        squares = error.square().mean()
        tint = functional.avg_pool2d(error, BLOCK).abs().mean()
        loss = error.abs().mean() + SQUARES * squares + TINT * tint
        optimize(self._optimizer, loss, [learning_rate(self.step, steps, PEAK)])
        self.step += 1
        return float(squares.detach())


def train_head(head: Head, examples: Examples, steps: int, path: Path, stop: Stop) -> bool:
    """Train, or continue from the checkpoint `path`. Returns false if it was stopped before the last step."""
    training = HeadTraining(head, path)
    first, shown = training.step, {"dB": 0.0}
    mean = 0.0
    for step in steps_with_progress(first, steps, shown, stop):
        rng = np.random.default_rng([4, step])
        batch = examples.batch(np.sort(rng.choice(examples.count, min(BATCH, examples.count), replace=False)))
        square = training.train_step(batch, examples.region.inner, steps)
        mean = mean * 0.98 + square * 0.02 if step > first else square
        shown["dB"] = -10 * float(np.log10(max(mean, 1e-9)))
        if training.step % EVERY == 0:
            training.save()
    training.save()
    return training.step >= steps
