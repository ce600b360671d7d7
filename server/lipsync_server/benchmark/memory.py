"""How much memory a server and its stages really take."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        try:
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


@contextmanager
def watched(pid: int, every_s: float = 1.0) -> Iterator[list[float]]:
    """`server_memory_mb` again and again while the block runs, in the list that it gives."""
    seen, over = [server_memory_mb(pid)], threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            seen.append(server_memory_mb(pid))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
