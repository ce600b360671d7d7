"""Permits for the requests in flight, between the first and the last stage. With none left the server refuses at once.

Triton's own bound, `max_queue_size`, is not used: with it the dynamic batcher no longer prepares the next batch while
one runs, and a request that comes in the meantime may wait up to half a second with the network idle.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import numpy as np

from lipsync_mel import refusals
from lipsync_mel.permit_file import HEAD

SOON = 2_000_000_000  # ns
QUIET = 10_000_000_000  # ns; where nothing is finished for so long, nothing is being done


class Full(Exception):
    """Every permit is held."""


class Permits:
    """The first stage's side, in each of its processes.

    Args:
        path: of the shared file; made if it is not there.
        count: how many requests may be in flight.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.truncate(self._file, 8 * (HEAD + count))
        self._shared = np.memmap(path, np.int64, "r+")

    def acquire(self, now: int) -> int:
        """Take a permit at monotonic ns `now`; returns its number, which is never 0. Raises Full.

        A request that failed or was cancelled never reaches the last stage. Its permit is free again after four times
        what the last finished request took, and two seconds at least. Where no request has been finished for ten
        seconds, the others were cancelled together, and ten seconds are enough.
        """
        fcntl.flock(self._file, fcntl.LOCK_EX)  # or two processes find the same permit free
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
