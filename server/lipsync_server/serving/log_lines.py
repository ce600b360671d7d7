"""Keeps a program that prints the same over and over from filling a disk and a terminal."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

__all__ = ["PER_SECOND", "LogLines"]

PER_SECOND = 1000
SAID_EVERY_S = 10.0  # how often a line that goes on repeating is counted in the log
# Triton's severity, date, time and process id, which differ in lines that say the same.
STAMP = re.compile(r"[A-Z]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ")


class LogLines:
    """Passes on lines. Repeated ones are counted instead, and so are those beyond a number a second.

    Lines that differ in Triton's time and process id alone are the same.

    Args:
        write: gets lines, each with its end.
        per_second: lines at most; None: no limit.
        now: monotonic, in seconds.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        per_second: int | None = PER_SECOND,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._per_second, self._now = write, per_second, now
        self._last: str | None = None
        self._repeated = 0
        self._said = now()  # when the last line or its repetition was written
        self._second = now()  # when the second began in which lines are counted
        self._kept = self._left_out = 0

    def add(self, line: str) -> None:
        """Take the program's next line."""
        text = STAMP.sub("", line, count=1).rstrip("\n")
        now = self._now()
        if text == self._last:
            self._repeated += 1
            if now - self._said >= SAID_EVERY_S:
                self._say_repeated(now)
            return
        self._say_repeated(now)
        if now - self._second >= 1:
            self._say_left_out()
            self._second, self._kept = now, 0
        if self._per_second is not None and self._kept >= self._per_second:
            self._left_out += 1
            self._last = None
            return
        self._kept += 1
        self._last, self._said = text, now
        self._write(line)

    def close(self) -> None:
        """The program has ended: say what was counted last."""
        self._say_repeated(self._now())
        self._say_left_out()

    def _say_repeated(self, now: float) -> None:
        if self._repeated:
            self._write(f"... the last line, repeated {self._repeated} times\n")
        self._repeated, self._said = 0, now

    def _say_left_out(self) -> None:
        if self._left_out:
            self._write(f"... {self._left_out} lines left out, beyond {self._per_second} a second\n")
        self._left_out = 0
