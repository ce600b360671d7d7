"""Permits for requests in flight, from the first to the last stage. Without a free permit the server refuses at once.

Triton's own bound, `max_queue_size`, is not used: with it the dynamic batcher no longer prepares the next batch while
one runs. A request that arrives in the meantime may then wait up to half a second although the network is idle.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import numpy as np

from lipsync_mel import refusals
from lipsync_mel.permit_file import HEAD

SOON = 2_000_000_000  # ns
QUIET = 10_000_000_000  # ns; if no request is finished for so long, none is being computed


class Full(Exception):
    """Every permit is held."""


class Permits:
    """The first stage's view of the permits, in each of its processes.

    Args:
        path: the shared file; made if it does not exist.
        count: how many requests may be in flight.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.truncate(self._file, 8 * (HEAD + count))
        self._shared = np.memmap(path, np.int64, "r+")

    def acquire(self, now: int) -> int:
        """Take a permit at the monotonic time `now` in ns. Returns its number, which is never 0. Raises Full.

        A request that failed or was cancelled never reaches the last stage. Its permit becomes free after four times
        the duration of the last finished request, but not before two seconds. If no request was finished for ten
        seconds, the others were cancelled together, and their permits are free after ten seconds.
        """
        fcntl.flock(self._file, fcntl.LOCK_EX)  # else two processes could take the same free permit
        try:
            return self._take(now)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _take(self, now: int) -> int:
        took, finished, permits = int(self._shared[0]), int(self._shared[1]), self._shared[HEAD:]
        lost = now - max(SOON, 4 * took)
        if now - finished > QUIET:
            lost = max(lost, now - QUIET)
        free = np.flatnonzero((permits == 0) | (permits < lost))
        if not len(free):
            sentence = f"{len(permits)} requests are in flight, which is all that this server takes: try again soon"
            raise Full(refusals.coded(refusals.OVERLOADED, sentence))
        permits[free[0]] = now
        return int(free[0]) + HEAD
