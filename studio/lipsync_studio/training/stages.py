"""The stages of a training: which of how many, how long all of them still take, and where a stopped one continues."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lipsync_server.repository.source import SourceError
from lipsync_studio.training.runs import load_checkpoint, save_checkpoint

PRETRAINING = "pretraining.pt"  # in the folder of the training
LAST_STAGE = "phase 3 of 3, full pictures"
EVERY_S = 60.0  # between checkpoints: at most this much is lost when a training is killed
AUDIO_COST, LOW_RESOLUTION_COST = 0.1, 0.4  # estimates of a step, in steps of the last stage, on a CPU


class Stateful(Protocol):
    """A network, or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@dataclass
class Stage:
    """A stage before the last one, saved in a file that all of them share.

    Attributes:
        title: for the progress bar.
        number: from 1.
        later: what all stages after this one cost, in steps of this one.
        path: its checkpoint; None: it is not saved.
    """

    title: str
    number: int = 1
    later: float = 0.0
    path: Path | None = None
    _saved: float = field(default_factory=time.monotonic)

    def restore(self, steps: int, parts: Mapping[str, Stateful]) -> int:
        """The step to begin with: 0, where an earlier run stopped, or `steps` if that one was in a later stage.

        Raises:
            SourceError: the checkpoint is of a network of another width.
        """
        state = load_checkpoint(self.path) if self.path else None
        if state is None or state["stage"] < self.number:
            return 0
        if state["stage"] > self.number:
            return steps
        try:
            for name, part in parts.items():
                part.load_state_dict(state[name])
        except (RuntimeError, ValueError):
            raise SourceError(
                f"{self.path} has another width than this training: give the other --width, or remove the file"
            ) from None
        return min(int(state["step"]), steps)

    def save(self, step: int, parts: Mapping[str, Stateful], *, now: bool = False) -> None:
        """Save it after a number of steps, if that is wanted now or the last checkpoint is old."""
        if self.path and (now or time.monotonic() - self._saved >= EVERY_S):
            state = {name: part.state_dict() for name, part in parts.items()}
            save_checkpoint(self.path, {"stage": self.number, "step": step, **state})
            self._saved = time.monotonic()


def stages_of(work: Path, low_resolution_steps: int, steps: int) -> tuple[Stage, Stage]:
    """The two stages before the last one, which has `steps` steps."""
    path = work / PRETRAINING
    later = (low_resolution_steps * LOW_RESOLUTION_COST + steps) / AUDIO_COST
    return (
        Stage("phase 1 of 3, sound", 1, later, path),
        Stage("phase 2 of 3, small pictures", 2, steps / LOW_RESOLUTION_COST, path),
    )
