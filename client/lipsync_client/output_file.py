"""Where a file that appears only when it is complete may be written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lipsync_client.errors import LipsyncError

__all__ = ["output_file"]

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
STANDARD_STREAMS = (1, 2)


def output_file(path: str | os.PathLike[str]) -> Path:
    """The regular file that a path names, or that it may become: the place where its symbolic links lead.

    Writers make a draft beside that place and then rename it. A rename onto a device would replace the device itself.

    Raises:
        LipsyncError: something else than a file is there, its folder is missing, or it cannot be examined.
    """
    path = Path(path)
    place = Path(os.path.realpath(path))
    try:
        there = path.stat()
    except FileNotFoundError:
        if not place.parent.is_dir():
            folder = place.parent if path.is_symlink() else path.parent
            raise LipsyncError(f"There is no folder {folder} to write {place.name} to.") from None
        return place
    except OSError as error:
        raise LipsyncError(f"{path} cannot be written ({error.strerror or error})") from None
    if not stat.S_ISREG(there.st_mode):
        kind = KINDS.get(stat.S_IFMT(there.st_mode), "no file")
        raise LipsyncError(f"{path} is {kind}: give the name of a file, which is replaced when the new one is complete")
    if any(_is_open_as(number, there) for number in STANDARD_STREAMS):
        raise LipsyncError(f"{path} takes this command's own output: give the name of another file")
    return place


def _is_open_as(number: int, there: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(number), there)
    except OSError:  # it is closed
        return False
