"""What a supervisor knows of its programs, in a file for its gateway, which shows it to callers."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ["History", "StatusFile"]


class History:
    """Starts and ends of one program. Times are in seconds since 1970.

    Attributes:
        state: "starting", "running", or "waiting" until it is started again.
        pid: its process id; None: it does not run.
        since: when the state began.
        restarts: how often it was started again.
        last_end: why and when it ended last, or could not be started; None: never.
        next_start: when it is started again; None: it is not waiting.
    """

    def __init__(self) -> None:
        self.state = "waiting"
        self.pid: int | None = None
        self.since = time.time()
        self.restarts = -1
        self.last_end: dict[str, Any] | None = None
        self.next_start: float | None = None

    def starting(self) -> None:
        self.restarts += 1
        self._become("starting")

    def running(self, pid: int) -> None:
        self._become("running", pid=pid)

    def ended(self, reason: str, delay: float) -> None:
        """It has ended, or could not be started. It is started again after `delay` seconds."""
        self.last_end = {"time": time.time(), "reason": reason}
        self._become("waiting", next_start=time.time() + delay)

    def _become(self, state: str, *, pid: int | None = None, next_start: float | None = None) -> None:
        self.state, self.pid, self.next_start, self.since = state, pid, next_start, time.time()


class StatusFile:
    """A JSON object in a file, which is replaced when something has changed. Readers find a whole one, or none.

    Attributes:
        path: the file; None: nothing is written.
        triton, gateway: the programs' histories.
        stages: the model of each stage process that runs.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.triton, self.gateway = History(), History()
        self.stages: list[str] = []
        self._ends: Counter[str] = Counter()  # of stages
        self._written = ""

    def stage_ended(self, model: str) -> None:
        """A stage has ended by itself."""
        self._ends[model] += 1

    def write(self) -> None:
        """Write what is known now. A file system that refuses it is no reason to stop."""
        if self.path is None:
            return
        running = Counter(self.stages)
        facts = {
            "triton": vars(self.triton),
            "gateway": vars(self.gateway),
            "stages": [
                {"model": model, "processes": running[model], "ends": self._ends[model]}
                for model in sorted({*running, *self._ends})
            ],
        }
        text = json.dumps(facts)
        if text == self._written:
            return
        draft = self.path.with_name(f".{self.path.name}.draft")
        with contextlib.suppress(OSError):
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(text)
            draft.replace(self.path)
            self._written = text

    def remove(self) -> None:
        """Remove the file, where the file system lets us."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
