"""Finds what a killed server left behind: its processes, its shared memory, and its links (`safe_paths`) beside that.

Every server names its shared memory `lipsync_<pid namespace>_<pid>_<start time>_<n>_`, after the process that
owns it. The name stands in the arguments of the server and of its Python stages, and in /dev/shm, so whatever
carries the name of a process that no longer lives is a leftover. The start time tells a reused process id apart.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
SERVER, STAGE = "tritonserver", "triton_python_backend_stub"
NAME = re.compile(r"lipsync_(\d+)_(\d+)_(\d+)_\d+_")
_count = itertools.count()


def new_name() -> str:
    """A shared-memory prefix for one more server owned by this process."""
    return f"lipsync_{_namespace()}_{os.getpid()}_{_start_time(os.getpid())}_{next(_count)}_"


def sweep_dead() -> list[str]:
    """Remove what servers of dead owners left; returns their names."""
    names = {name for _, name in processes(SERVER, STAGE)} | {name for _, name in _regions()}
    dead = sorted(name for name in names if not _may_live(name))
    for name in dead:
        sweep(name)
    return dead


def sweep(name: str, timeout: float = 5) -> None:
    """End the processes of one server and remove its shared memory."""
    deadline = time.monotonic() + timeout
    while pids := [pid for pid, owner in processes(SERVER, STAGE) if owner == name]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for path, owner in _regions():
        if owner == name:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                path.unlink()


def has_stages(name: str) -> bool:
    """Whether a server still has processes of Python models."""
    return any(owner == name for _, owner in processes(STAGE))


def processes(*programs: str) -> Iterator[tuple[int, str]]:
    """Processes of these programs (SERVER, STAGE) that carry a name of this project: their ids, and the name."""
    for pid, arguments in _programs(*programs):
        if match := NAME.search(" ".join(arguments)):
            yield pid, match.group()


def running_arguments() -> set[str]:
    """Every argument of every server that runs on this machine."""
    return {argument for _, arguments in _programs(SERVER) for argument in arguments}


def _may_live(name: str) -> bool:
    match = NAME.fullmatch(name)
    assert match is not None
    namespace, pid, start = map(int, match.groups())
    # A server of another container that shares /dev/shm cannot be judged from here.
    return namespace != _namespace() or _start_time(pid) == start


def _programs(*names: str) -> Iterator[tuple[int, list[str]]]:
    """Server and stage processes with their arguments; a zombie has none and is passed over."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_text(errors="replace").split("\0")
        except OSError:
            continue
        if Path(arguments[0]).name in names:
            yield int(folder.name), arguments


def _regions() -> Iterator[tuple[Path, str]]:
    for path in SHARED_MEMORY.glob("lipsync_*"):
        if match := NAME.match(path.name):
            yield path, match.group()


def _start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (field 22 of proc(5) stat); None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino
