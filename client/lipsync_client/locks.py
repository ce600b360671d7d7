"""Locks between processes of one machine, which end with the process that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["locked", "shared"]


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file, which is made if it is not there.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
    """
    import fcntl  # where there is none (Windows), the rest of the library works all the same

    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


@contextmanager
def shared(path: Path, when_alone: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that others may hold too; if nobody does yet, call `when_alone` first, while nobody can."""
    import fcntl

    with path.open("a") as file:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            when_alone()
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
