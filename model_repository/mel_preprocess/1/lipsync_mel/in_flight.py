"""Permits for requests in flight, from the first to the last stage. Without a free permit the server refuses at once.

Triton's own bound, `max_queue_size`, is not used: with it the dynamic batcher no longer prepares the next batch while
one runs. A request that arrives in the meantime may then wait up to half a second although the network is idle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipsync_mel import permit_file, refusals
from lipsync_mel.permit_file import EXTRA, PERMITS, PermitFile, State

SOON = 2_000_000_000  # ns; a request that takes longer than this is waited for four times as long as the last one took
LONGEST = 60_000_000_000  # ns; with nothing finished meanwhile, a request that takes longer is lost
QUIET = 10_000_000_000  # ns; an avatar for which nothing was finished for so long has no requests in flight
PROBING = 250_000_000  # ns, or twice what a request takes: then one that got the extra permit is lost, too


class Full(Exception):
    """Every permit is held."""


class Permits:
    """The first stage's view of the permits, in each of its processes.

    A request that failed, was cancelled or met a dead stage never reaches the last stage, and nobody tells. But
    requests of one avatar do not overtake each other. So a permit is lost when a request that began later has been
    finished for every avatar that is in use; while none is in use, when it is older than any request. Where every
    permit is held, one request at a time is let in all the same, with the extra permit: if the others are lost, it
    comes back at once and proves it.

    Args:
        path: the shared file; made if it does not exist.
        count: how many requests may be in flight.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._file = PermitFile(path, count)
        self._count = count

    def acquire(self, now: int) -> int:
        """Take a permit at monotonic ns `now` for a request that begins; returns its number. Raises Full."""
        with self._file.state() as state:
            state.permits[_lost(state, now)] = 0
            free = np.flatnonzero(state.permits == 0)
            permit = PERMITS + int(free[0]) if len(free) else self._extra(state, now)
            state.values[permit] = now
            return permit

    def give_back(self, permit: int, began: int) -> None:
        """The request ends here, in the first stage."""
        with self._file.state() as state:
            permit_file.give_back(state, permit, began)

    def _extra(self, state: State, now: int) -> int:
        given, took = int(state.values[EXTRA]), state.last[:, 3]
        if given and now - given < max(PROBING, 2 * took[_in_use(state, now)].max(initial=0)):
            sentence = f"{self._count} requests are in flight, which is all that this server takes: try again soon"
            raise Full(refusals.coded(refusals.OVERLOADED, sentence))
        return EXTRA


def _in_use(state: State, now: int) -> NDArray[np.bool_]:
    """Which rows of `state.last` are of avatars that may have requests in flight."""
    finished, took = state.last[:, 2], state.last[:, 3]
    rows: NDArray[np.bool_] = (finished > 0) & (now - finished <= np.maximum(QUIET, 4 * took))
    return rows


def _lost(state: State, now: int) -> NDArray[np.bool_]:
    """Which permits are held by no request any more.

    An avatar's requests began after the newest that was finished for it. And they are not much older than that one was:
    else an avatar that nobody asks any more would keep lost permits of others.
    """
    last, permits = state.last[_in_use(state, now)], state.permits[:, None]
    if not len(last):
        return now - permits[:, 0] > LONGEST
    gone = (permits < last[:, 1]) | (now - permits > np.maximum(SOON, 4 * last[:, 3]))
    lost: NDArray[np.bool_] = gone.all(axis=1)
    return lost
