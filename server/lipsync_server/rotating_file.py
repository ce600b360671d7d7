"""A log file of bounded size."""

from __future__ import annotations

from pathlib import Path

__all__ = ["RotatingFile"]


class RotatingFile:
    """A text file that is written at its end. Before it grows too large, it becomes `NAME.1`, and that `NAME.2`.

    For one thread. Every method raises OSError as the file system does.

    Args:
        path: the file; made, or continued.
        max_bytes: its size at most, unless one text alone is larger.
        backups: how many older files are kept.
        replace: what is there of an earlier run, older files too, is removed first.
    """

    def __init__(self, path: Path, max_bytes: int, backups: int, *, replace: bool = False) -> None:
        self._path, self._max_bytes, self._backups = path, max_bytes, backups
        if replace:
            remove(path, backups)
        self._file = path.open("ab", buffering=0)
        self._size = self._file.tell()

    def write(self, text: str) -> None:
        """Append a text; nothing of it waits in memory."""
        data = text.encode("utf-8", errors="replace")
        if self._size and self._size + len(data) > self._max_bytes:
            self._rotate()
        self._size += self._file.write(data)

    def close(self) -> None:
        self._file.close()

    def _rotate(self) -> None:
        for number in reversed(range(self._backups)):
            older = _backup(self._path, number)
            if older.exists():
                older.replace(_backup(self._path, number + 1))
        self._file.close()
        self._file = self._path.open("wb", buffering=0)
        self._size = 0


def remove(path: Path, backups: int) -> None:
    """Remove a log and its older files."""
    for number in range(backups + 1):
        _backup(path, number).unlink(missing_ok=True)


def _backup(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path
