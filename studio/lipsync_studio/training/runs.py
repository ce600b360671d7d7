"""Shared by all trainings: checkpoints, a clean end on Ctrl-C, the progress bar, learning rate and optimizer step."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text
from torch import Tensor, nn

from lipsync_client.console import notes


class Stop:
    """Becomes true after Ctrl-C or a terminate signal; the training loop then ends after its step.

    A second signal raises KeyboardInterrupt at once; the last checkpoint is kept. The end of its `with` block restores
    the earlier signal handlers.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> Stop:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        notes.print("Stopping after this step, which is saved. Ctrl-C again ends at once, without saving.")

    def __bool__(self) -> bool:
        return self.asked


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint completely or not at all: a run that is killed while saving keeps its last checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last checkpoint; None if there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def steps_with_progress(
    first: int, total: int, shown: Mapping[str, float], stop: Stop, what: str = "training", later: float = 0.0
) -> Iterator[int]:
    """The step numbers from `first`, with a progress bar.

    Args:
        shown: named values beside the bar. The caller updates them while it iterates.
        stop: ends the iteration after the current step.
        what: the bar's title.
        later: steps of this kind that the stages after this one cost; the time left is for them too.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeLeft(later), console=notes) as bar:
        task = bar.add_task(what, total=total, completed=first)
        for step in range(first, total):
            if stop:
                if step > first:  # else an earlier stage of the training was stopped
                    notes.print(f"stopped at step {step} of {total}")
                return
            yield step
            values = " ".join(f"{name} {value:.4f}" for name, value in shown.items())
            bar.update(task, advance=1, description=f"{what}: {values}" if values else what)


class TimeLeft(ProgressColumn):
    """The time left for this stage and those after it."""

    def __init__(self, later: float) -> None:
        super().__init__(Column(no_wrap=True))
        self._later = later

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed or task.total is None:
            return Text("left -:--:--")
        seconds = max(0.0, task.total - task.completed + self._later) / speed
        about = "about " if self._later else ""
        return Text(f"left {about}{timedelta(seconds=round(seconds))}")


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's parameters."""
    return next(network.parameters()).device


def mixed_precision(device: torch.device) -> torch.autocast:
    """BF16 where the device computes it fast; FP32 on GPUs older than Ampere."""
    fast = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def learning_rate(step: int, steps: int, peak: float, warm_up: int = 40) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    done = min(1.0, step / max(1, steps))
    return peak * min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def optimize(optimizer: torch.optim.Optimizer, loss: Tensor, rates: Sequence[float]) -> None:
    """One step with the gradient clipped to a norm of 1.

    Args:
        rates: learning rate of each of the optimizer's parameter groups.
    """
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
