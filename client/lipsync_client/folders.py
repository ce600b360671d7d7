"""The user's folders of this product: the cache (control key, logs, backends) and the data (the model repository).

They are where the system wants them, on Linux `~/.cache/lipsync` and `~/.local/share/lipsync` or below
`$XDG_CACHE_HOME` and `$XDG_DATA_HOME`. A user without a home, or whose home cannot be written, gets a private folder
under the temporary directory.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import platformdirs

from lipsync_client.errors import LipsyncError

__all__ = ["cache_folder", "cached", "data_folder"]

NAME = "lipsync"


def cache_folder() -> Path:
    """The user's cache folder of this product, private and made on first use.

    Raises:
        LipsyncError: neither it nor its replacement under the temporary directory can be used.
    """
    folder = _absolute(platformdirs.user_cache_path)
    return folder if folder and _can_be_written(folder) else _made(_temporary() / "cache")


def cached(name: str) -> Path | None:
    """A file of the cache folder, if it is there. Nothing is made, and the folder need not be writable."""
    folders = [_absolute(platformdirs.user_cache_path)]
    with suppress(LipsyncError):
        folders.append(_temporary(make=False) / "cache")
    return next((folder / name for folder in folders if folder and os.access(folder / name, os.F_OK)), None)


def data_folder() -> Path:
    """The user's data folder of this product, made on first use; perhaps it can only be read.

    Raises:
        LipsyncError: neither it nor its replacement under the temporary directory can be used.
    """
    folder = _absolute(platformdirs.user_data_path)
    if folder and (os.access(folder, os.R_OK | os.X_OK) or _can_be_written(folder)):
        return folder
    return _made(_temporary() / "data")


def _absolute(find: Callable[..., Path]) -> Path | None:
    """The folder that platformdirs finds; None for what is no place: `~` of a user without a home, a relative path."""
    try:
        folder = find(NAME, appauthor=False)
    except RuntimeError:  # newer versions, where older ones return the literal `~`
        return None
    return folder if folder.is_absolute() else None


def _can_be_written(folder: Path) -> bool:
    """Whether the folder is there, or could be made, and this user may write into it."""
    try:
        return os.access(_made(folder), os.W_OK | os.X_OK)
    except OSError:
        return False


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    return folder


def _temporary(*, make: bool = True) -> Path:
    """The user's private folder under the temporary directory.

    Raises:
        LipsyncError: there is no temporary directory, or somebody else has made that folder.
    """
    user = os.getuid() if hasattr(os, "getuid") else ""  # Windows: the temporary directory is the user's own
    try:
        folder = Path(tempfile.gettempdir()) / f"{NAME}-{user}"
        if make:
            folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise LipsyncError(
            f"No folder for this user's files can be made ({error.strerror or error}): "
            "set XDG_CACHE_HOME and XDG_DATA_HOME to folders that you can write."
        ) from None
    if user != "" and (not stat.S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o077):
        raise LipsyncError(
            f"{folder} is not a private folder of this user: remove it, or set XDG_CACHE_HOME and XDG_DATA_HOME to "
            "folders that you can write."
        )
    return folder
