"""The file in shared memory with the permits of requests in flight. The first and the last stage use it.

It holds INT64 [2 + permits]: the duration of the last finished request, the time at which it was finished, then for
each permit the time at which its request began (0: the permit is free). Times are monotonic, in nanoseconds. Each stage
is a process with a package of its own, so lipsync_composite/permit_file.py is a link to this file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

HEAD = 2  # values before the first permit


def server_file() -> Path:
    """The path of the file, the same for all stages of a server; removed with the server's other shared memory."""
    arguments = Path("/proc/self/cmdline").read_bytes().decode(errors="replace")
    name = re.search(r"lipsync_\d+_\d+_\d+_\d+_", arguments)
    return Path("/dev/shm") / f"{name[0] if name else f'lipsync-{os.getppid()}-'}in_flight"


def release(path: Path, permit: int, began: int, now: int) -> None:
    """Release the permit of a finished request. Nothing changes if the request no longer holds it.

    Args:
        path: see `server_file`.
        permit: its number.
        began: when the request began, monotonic ns.
        now: monotonic ns.
    """
    if not path.exists():  # the request did not come from the first stage
        return
    shared = np.memmap(path, np.int64, "r+")
    if HEAD <= permit < len(shared) and shared[permit] == began:
        shared[0], shared[1], shared[permit] = now - began, now, 0
