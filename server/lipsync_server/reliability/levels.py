"""What a stack holds over time: memory, file descriptors, shared memory."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from lipsync_server.benchmark.memory import memory_kb
from lipsync_server.reliability.stack import Stack, process_tree
from lipsync_server.serving.leftovers import SHARED_MEMORY

__all__ = ["Level", "Levels", "memory_by_process"]


@dataclass(frozen=True)
class Level:
    """One look at a process and all below it.

    Attributes:
        time: monotonic seconds.
        memory_mb: proportional set size, so that memory which the processes share counts once.
        descriptors: open file descriptors.
        shared_mb: size of its files in /dev/shm; `memory_mb` has what is used of it too.
    """

    time: float
    memory_mb: float
    descriptors: int
    shared_mb: float

    @classmethod
    def of(cls, root: int) -> Level:
        """Now. Processes that end meanwhile are left out."""
        kilobytes = descriptors = 0
        for pid in process_tree(root):
            with contextlib.suppress(OSError):
                kilobytes += memory_kb(pid)
                descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
        shared = 0
        for file in SHARED_MEMORY.glob(f"lipsync_*_{root}_*"):
            with contextlib.suppress(OSError):
                shared += file.stat().st_size
        return cls(time.monotonic(), kilobytes / 1024, descriptors, shared / 2**20)


def memory_by_process(stack: Stack) -> dict[str, float]:
    """MB of each process, by its name."""
    found = {}
    for name, pid in {"supervisor": stack.pid, **stack.parts()}.items():
        with contextlib.suppress(OSError):
            found[name] = memory_kb(pid) / 1024
    return found


class Levels(list[Level]):
    """Levels in the order of time."""

    def between(self, start: float, stop: float) -> Levels:
        """Those of a span of monotonic seconds."""
        return Levels(level for level in self if start <= level.time <= stop)

    def quarter(self, number: int) -> Levels:
        """A quarter of the time that they cover: 0, 1, 2 or 3."""
        start, length = self[0].time, (self[-1].time - self[0].time) / 4
        return self.between(start + number * length, start + (number + 1) * length)

    def median(self) -> dict[str, float]:
        """The median of each figure; a message of 120 MB that is refused makes peaks, which are no growth."""
        return {
            name: float(statistics.median(getattr(level, name) for level in self))
            for name in ("memory_mb", "descriptors", "shared_mb")
        }
