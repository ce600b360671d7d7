"""How much memory a server and its stages really take."""

from __future__ import annotations

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
