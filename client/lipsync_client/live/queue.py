"""The sound that was pushed and not heard yet, and the marks in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipsync_client.live.speech import Speech

__all__ = ["Mark", "SpeechPart", "SpeechQueue", "Taken"]


@dataclass(frozen=True)
class SpeechPart:
    """Sound that was not heard yet: of one push, or what is left of it.

    Attributes:
        samples: mono, float32 in [-1, 1], shape = (n,).
        rate: samples a second, as they were pushed.
        tag: what `push` was given with them.
    """

    samples: NDArray[np.float32]
    rate: int
    tag: Any = None

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class Mark:
    """A place between two pushes. The value is whatever `mark` was given."""

    value: Any


@dataclass(frozen=True)
class Taken:
    """What left the queue together.

    Attributes:
        samples: shape = (n,); n is 0 where there was no sound.
        rate: of the samples; 0 where there was no sound.
        tag: of the first sample.
        marks: those that were reached: no sound before them is left.
    """

    samples: NDArray[np.float32]
    rate: int
    tag: Any
    marks: tuple[Any, ...]


@dataclass(eq=False)
class Held:
    """A part in the queue. Its samples become fewer as they are heard."""

    part: SpeechPart
    speech: Speech | None

    def keep(self, samples: NDArray[np.float32]) -> None:
        self.part = SpeechPart(samples, self.part.rate, self.part.tag)


class SpeechQueue:
    """Sound and marks, in the order in which they went in."""

    def __init__(self) -> None:
        self._entries: deque[Held | Mark] = deque()
        self._tag: Any = None  # of the sound that was taken last

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def parts(self) -> list[SpeechPart]:
        """The sound."""
        return [entry.part for entry in self._sounds()]

    @property
    def seconds(self) -> float:
        """Of sound."""
        return sum(entry.part.seconds for entry in self._sounds())

    @property
    def rate(self) -> int:
        """Samples a second of the first sound; 0 if there is none."""
        return next((entry.part.rate for entry in self._sounds()), 0)

    def put(self, part: SpeechPart, speech: Speech | None = None) -> Held:
        """Sound goes in."""
        held = Held(part, speech)
        if len(part.samples):
            self._entries.append(held)
        return held

    def mark(self, value: Any) -> None:
        """A mark goes in."""
        self._entries.append(Mark(value))

    def take(self, count: int, speech: Speech | None = None, *, last: bool = False) -> Taken:
        """Remove the next samples, and the marks that are reached with them.

        Args:
            count: samples at most; all have the same rate. With 0, only marks come.
            speech: whose sound; no other is taken.
            last: take whatever is left of that speech.
        """
        sounds, marks, rate, tag = [np.zeros(0, np.float32)], [], 0, self._tag
        while self._entries:
            head = self._entries[0]
            if isinstance(head, Mark):
                marks.append(head.value)
            elif not (head.speech and head.speech.lost):
                part = head.part
                if head.speech is not speech or rate not in (0, part.rate) or not (count or last):
                    break
                if not rate:
                    rate, tag = part.rate, part.tag
                size = len(part.samples) if last else min(count, len(part.samples))
                count -= size
                sounds.append(part.samples[:size])
                head.keep(part.samples[size:])
                if size < len(part.samples):
                    break
            self._entries.popleft()
        self._tag = tag
        return Taken(np.concatenate(sounds), rate, tag, tuple(marks))

    def withdraw(self, held: Held, count: int) -> None:
        """Forget the last samples of a part."""
        held.keep(held.part.samples[: len(held.part.samples) - count])
        if not len(held.part.samples) and held in self._entries:
            self._entries.remove(held)

    def forget(self, speech: Speech) -> None:
        """Forget the sound of a speech. Marks in it keep their place."""
        entries = [entry for entry in self._entries if isinstance(entry, Mark) or entry.speech is not speech]
        self._entries = deque(entries)

    def clear(self) -> list[SpeechPart | Mark]:
        """Forget everything. Returns it."""
        entries = [entry if isinstance(entry, Mark) else entry.part for entry in self._entries]
        self._entries.clear()
        return entries

    def _sounds(self) -> Iterator[Held]:
        return (entry for entry in self._entries if isinstance(entry, Held))
