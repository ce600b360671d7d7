"""The file in shared memory in which the first and the last stage keep the permits of requests in flight.

INT64 [2 + permits]: the nanoseconds that the last finished request took, the monotonic nanoseconds at which it was
finished, then for each permit those at which the request that holds it began; 0 is a free permit. The stages are
separate processes with a package each, and lipsync_composite/permit_file.py is a link to this file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

HEAD = 2  # values before the first permit


def server_file() -> Path:
    """The same for all stages of one server; named like its other shared memory, so that it is swept with it."""
    arguments = Path("/proc/self/cmdline").read_bytes().decode(errors="replace")
    name = re.search(r"lipsync_\d+_\d+_\d+_\d+_", arguments)
    return Path("/dev/shm") / f"{name[0] if name else f'lipsync-{os.getppid()}-'}in_flight"


def release(path: Path, permit: int, began: int, now: int) -> None:
    """The last stage's side: a request is finished. One that holds no permit changes nothing."""
    if not path.exists():  # asked without the first stage
        return
    shared = np.memmap(path, np.int64, "r+")
    if HEAD <= permit < len(shared) and shared[permit] == began:
        shared[0], shared[1], shared[permit] = now - began, now, 0
