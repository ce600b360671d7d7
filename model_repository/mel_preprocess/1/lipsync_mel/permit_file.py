"""The file in shared memory with the permits of requests in flight. The first and the last stage use it.

INT64: the extra permit, 64 rows of what the last stage has finished (`State.last`), then the permits. A permit is the
monotonic nanoseconds at which the request that holds it began; 0 is a free one. The stages are separate processes
with a package each, and lipsync_composite/permit_file.py is a link to this file. It is read and written, not mapped:
a mapped file that somebody cuts ends the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHARED_MEMORY = Path("/dev/shm")
AVATARS = 64
NONE = -1  # instead of a permit's number, for a request that needs none
EXTRA = 0  # number of the permit that is given though all others are held
LAST = slice(1, 1 + 4 * AVATARS)
PERMITS = LAST.stop  # place of the first one


@dataclass(frozen=True)
class State:
    """The content of the file, which may be written to: INT64. A permit's number is its place in `values`."""

    values: NDArray[np.int64]

    @property
    def last(self) -> NDArray[np.int64]:
        """Of each avatar of late its key, and of the newest request that was finished for it: when it began, when it
        was finished and what it took, in monotonic ns. Shape = (64, 4), a view; a row of zeros is free.
        """
        return self.values[LAST].reshape(AVATARS, 4)

    @property
    def permits(self) -> NDArray[np.int64]:
        """All but the extra one; a view."""
        return self.values[PERMITS:]


class PermitFile:
    """The file, open in one stage's process.

    Args:
        path: `server_file()`.
        permits: make the file, for so many; without it, the file must be there.

    Raises:
        FileNotFoundError: it is not there.
    """

    def __init__(self, path: Path, permits: int | None = None) -> None:
        create = 0 if permits is None else os.O_CREAT
        while True:
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | create, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_SH)  # kept: it tells `sweep` that a stage lives
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(self._file).st_ino:
                    break
            os.close(self._file)  # it was swept before we held it
        weakref.finalize(self, os.close, self._file)
        self._count = permits
        if permits is not None:
            os.truncate(self._file, 8 * (PERMITS + permits))

    @contextlib.contextmanager
    def state(self) -> Iterator[State]:
        """What the file holds, for this process alone; what is changed in it is written back, unless by a failure."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            count = os.fstat(self._file).st_size // 8 - PERMITS if self._count is None else self._count
            values = np.zeros(PERMITS + max(0, count), np.int64)
            os.preadv(self._file, [values.data], 0)
            yield State(values)
            os.pwrite(self._file, values.data, 0)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


def give_back(state: State, permit: int, began: int) -> bool:
    """Free the permit of the request that began at `began`; False if it holds none."""
    if not (permit == EXTRA or PERMITS <= permit < len(state.values)) or began <= 0 or state.values[permit] != began:
        return False
    state.values[permit] = 0
    return True


def server_file() -> Path:
    """The same for all stages of one server, and of no other.

    `lipsync serve` names all shared memory of a server, and sweeps it by that name. Started by anything else, the
    server is told by its process id, which in containers is often 1, with its namespace and the time of its start.
    """
    arguments = Path("/proc/self/cmdline").read_bytes().decode(errors="replace")
    if name := re.search(r"lipsync_\d+_\d+_\d+_\d+_", arguments):
        return SHARED_MEMORY / f"{name[0]}in_flight"
    server = os.getppid()
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    started = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[19]  # proc(5): clock ticks since boot
    return SHARED_MEMORY / f"lipsync_{namespace}_{server}_{started}_0_in_flight"


def sweep() -> None:
    """Remove the files of servers whose stages have ended, also in other containers that share this memory."""
    for path in SHARED_MEMORY.glob("lipsync_*_in_flight"):
        with contextlib.suppress(OSError):  # gone meanwhile, not ours, or held by a stage
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(file)


class Finished:
    """The last stage's side.

    Args:
        path: of the file; opened when it is first needed, because the stages are loaded in any order.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: PermitFile | None = None

    def release(self, permit: int, began: int, avatar: int, now: int) -> None:
        """A request has come to its end, well or not, at monotonic ns `now`: its permit is free.

        One that holds no permit changes nothing, and is no news of an avatar: a caller may have made up its clock.

        Args:
            permit, began: of its clock.
            avatar: key of the avatar.
        """
        try:
            self._file = self._file or PermitFile(self._path)
        except FileNotFoundError:  # asked without the first stage
            return
        with self._file.state() as state:
            if not give_back(state, permit, began):
                return
            last = state.last
            known = np.flatnonzero((last[:, 0] == avatar) & (last[:, 2] > 0))
            row = known[0] if len(known) else np.argmin(last[:, 2])  # else the one that has rested longest
            newest = max(began, int(last[row, 1])) if len(known) else began  # instances may finish out of turn
            last[row] = avatar, newest, now, now - began
