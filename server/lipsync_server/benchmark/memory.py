"""How much memory a server and its stages really take."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def server_memory_mb(pid: int) -> float:
    """Proportional set size of a process and its children, in MB: memory that they share counts once.

    Pages of mapped footage that the kernel may drop at any time are counted too, where they are in memory.
    """
    pids, total = [pid], 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                pids.append(int(stat.parent.name))
        except OSError:
            continue
    for each in pids:
        with suppress(OSError):
            total += memory_kb(each)
    return total / 1024


def memory_kb(pid: int) -> int:
    """Proportional set size of one process. Raises OSError if it has ended."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@contextmanager
def watched(look: Callable[[], T], seen: list[T], every_s: float = 1.0) -> Iterator[None]:
    """Add what `look` gives to the list `seen`, again and again while the block runs."""
    over = threading.Event()
    seen.append(look())

    def watch() -> None:
        while not over.wait(every_s):
            seen.append(look())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
