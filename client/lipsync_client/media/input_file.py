"""Files as FFmpeg takes them: any name, and what comes through a pipe."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from av.stream import Disposition, Stream

from lipsync_client.errors import AudioError

__all__ = ["ffmpeg_name", "main_track", "seekable"]

STANDARD_INPUT = "-"

Track = TypeVar("Track", bound=Stream)


def ffmpeg_name(path: str | os.PathLike[str]) -> str:
    """A file's name for FFmpeg, which otherwise takes what stands before a colon for the name of a protocol."""
    return f"file:{os.fspath(path)}"


def main_track(tracks: Sequence[Track]) -> Track:
    """Of the tracks of one kind, the one that players play: the first that is marked as the default, else the first."""
    return next((track for track in tracks if track.disposition & Disposition.default), tracks[0])


class Copy:
    """A copy of what came through a pipe. `os.fspath` gives the copy's path; as text it is the pipe, for messages."""

    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._name = name

    def __fspath__(self) -> str:
        return self._path

    def __str__(self) -> str:
        return self._name


@contextmanager
def seekable(path: str | os.PathLike[str]) -> Iterator[str | os.PathLike[str]]:
    """A file that can be read several times: the path itself, or for a pipe a temporary copy of all that comes.

    Args:
        path: a file, a named pipe such as /dev/stdin, or `-` for the standard input.

    Raises:
        AudioError: there is no such file, it is a folder or a device, nothing is piped in, or it cannot be copied.
    """
    if os.fspath(path) == STANDARD_INPUT:
        if sys.stdin is None or sys.stdin.isatty():
            raise AudioError("nothing is piped to the standard input: give the name of a file instead of -")
        with _copied(sys.stdin.fileno(), "the standard input") as copy:
            yield copy
        return
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 (of a Copy too)
    except FileNotFoundError:
        raise AudioError(f"there is no file {path}") from None
    except OSError as error:
        raise AudioError(f"{path} cannot be opened ({error.strerror})") from None
    if stat.S_ISFIFO(mode):
        with _copied(os.fspath(path), str(path)) as copy:
            yield copy
    elif stat.S_ISREG(mode):
        yield path
    else:
        raise AudioError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no file'}")


@contextmanager
def _copied(source: str | int, name: str) -> Iterator[Copy]:
    with tempfile.TemporaryDirectory(prefix="lipsync-") as folder:
        path = Path(folder, "piped")
        try:
            # A file descriptor stays open: it is the process's own standard input.
            with open(source, "rb", closefd=isinstance(source, str)) as pipe, path.open("wb") as file:
                shutil.copyfileobj(pipe, file, 1 << 20)
        except OSError as error:
            raise AudioError(f"{name} cannot be read ({error.strerror or error})") from None
        yield Copy(str(path), name)
