"""What waits to be heard: slices of speech, the ends of speeches, and marks in between."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Mark", "PlayoutQueue", "Slice"]

END = object()  # between two speeches
TOO_SHORT_S = 0.001  # a speech may be so short that nothing of it is left at the rate that the networks hear


@dataclass
class Slice:
    """Sound that was not heard yet, of one moment at most. The owner is whatever `push` was given with it."""

    samples: NDArray[np.float32]
    rate: int
    owner: Any

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass
class Mark:
    """A place between two slices."""

    value: Any


class PlayoutQueue:
    """Slices and marks in order. They leave it as a live session tells what was heard, or one by one without it.

    Args:
        fps: moments a second.
    """

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._entries: deque[Any] = deque()  # of Slice, Mark and END
        self._owner: Any = None

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def slices(self) -> Iterator[Slice]:
        """The sound that waits."""
        return (entry for entry in self._entries if isinstance(entry, Slice))

    def next_owner(self) -> Any:
        """Of the sound that is heard next; of the sound before, where rounding leaves a last frame without any."""
        self._owner = next((slice.owner for slice in self.slices), self._owner)
        return self._owner

    @property
    def seconds(self) -> float:
        """Of sound that waits."""
        return sum(slice.seconds for slice in self.slices)

    def put(self, samples: NDArray[np.float32], rate: int, owner: Any) -> None:
        """Sound goes in, in slices of one moment, as far as it allows."""
        size = max(1, rate // self._fps)
        last = self._entries[-1] if self._entries else None
        if isinstance(last, Slice) and last.rate == rate and last.owner == owner:
            samples = np.concatenate([self._entries.pop().samples, samples])
        for start in range(0, len(samples), size):
            self._entries.append(Slice(samples[start : start + size], rate, owner))

    def end(self, *, known: bool) -> None:
        """The speech is complete. Forget it if the session does not know it, because it is too short for a frame."""
        if not known and self._seconds_since_end < TOO_SHORT_S:
            marks = []
            while self._entries and self._entries[-1] is not END:
                if isinstance(entry := self._entries.pop(), Mark):
                    marks.append(entry)
            self._entries.extend(reversed(marks))
        else:  # the session may also have lost it; it will tell
            self._entries.append(END)

    def mark(self, value: Any) -> None:
        """Put a mark behind everything that is here."""
        self._entries.append(Mark(value))

    def heard(self, seconds: float, *, last: bool = False) -> list[Any]:
        """So much of the first speech was heard, or all of it if that was its `last`. Returns the marks reached."""
        marks = []
        while self._entries:
            head = self._entries[0]
            if isinstance(head, Slice):
                count = len(head.samples) if last else min(len(head.samples), round(seconds * head.rate))
                seconds -= count / head.rate
                head.samples = head.samples[count:]
                if len(head.samples):
                    break
            elif isinstance(head, Mark):
                marks.append(head.value)
            elif last:
                seconds, last = 0.0, False
            else:
                break
            self._entries.popleft()
        return marks

    def take(self) -> tuple[Slice | None, list[Any]]:
        """Remove the next slice, if there is one. Returns it and the marks that are reached with it."""
        found, marks = None, []
        while self._entries and not (found and isinstance(self._entries[0], Slice)):
            entry = self._entries.popleft()
            if isinstance(entry, Slice):
                found = entry
            elif isinstance(entry, Mark):
                marks.append(entry.value)
        return found, marks

    def clear(self) -> list[Slice | Mark]:
        """Forget everything. Returns it, without the ends."""
        entries = [entry for entry in self._entries if entry is not END]
        self._entries.clear()
        return entries

    @property
    def _seconds_since_end(self) -> float:
        speech = itertools.takewhile(lambda entry: entry is not END, reversed(self._entries))
        return sum(entry.seconds for entry in speech if isinstance(entry, Slice))
