"""What every training run here shares: resume, a clean end on Ctrl-C, and a progress bar with the time left."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

console = Console()


class Stop:
    """True once Ctrl-C or a terminate signal came: the loop then ends after its step.

    The signals mean what they meant before once a `with` block of it ends.
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
        if self.asked:  # the second time: now
            raise KeyboardInterrupt
        self.asked = True

    def __bool__(self) -> bool:
        return self.asked


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Whole or not at all: a run killed while saving keeps its last checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last checkpoint, None if there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def steps_with_progress(first: int, total: int, notes: dict[str, float], stop: Stop) -> Iterator[int]:
    """The steps from `first`, with a bar that shows `notes` (kept up to date by the caller) and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("training", total=total, completed=first)
        for step in range(first, total):
            if stop:
                if step > first:  # else it was an earlier part of the training that was stopped
                    console.print(f"stopped at step {step} of {total}")
                return
            yield step
            bar.update(task, advance=1, description=" ".join(f"{name} {value:.4f}" for name, value in notes.items()))


def device_of(network: nn.Module) -> torch.device:
    """Where a network is."""
    return next(network.parameters()).device


def mixed(device: torch.device) -> torch.autocast:
    """BF16 where it is good for the speed; FP32 on GPUs older than Ampere."""
    fast = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def learning_rate(step: int, steps: int, peak: float, warm_up: int = 40) -> float:
    """Up in a line, then down in half a cosine to 2 % of the peak."""
    done = min(1.0, step / max(1, steps))
    return peak * min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
