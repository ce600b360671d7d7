"""A `lipsync serve` of the run's own: supervisor, Triton, its stages and the gateway, on free ports."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import yaml

from lipsync_server.serving import ServingError, leftovers
from lipsync_server.serving.child import Child
from lipsync_server.serving.stages import StageWatch

__all__ = ["BODY_TIMEOUT_S", "HEADER_TIMEOUT_S", "Stack", "eventually", "process_tree"]

START_S = 300.0
STOP_S = 60.0
LOOK_S = 0.02
HEADER_TIMEOUT_S, BODY_TIMEOUT_S = 10.0, 10.0
LINE = re.compile(r"Serving .* at grpc (\S+), http http://(\S+), monolithic (\S+), metrics ")
SETTINGS = {
    "ports": {"http": 0, "grpc": 0, "metrics": 0, "monolithic": 0},
    # A body may take 60 s as shipped. Every slow one would make the run a minute longer.
    "gateway": {"header_timeout_s": HEADER_TIMEOUT_S, "body_timeout_s": BODY_TIMEOUT_S},
}


class Stack:
    """A running `lipsync serve`, as a context manager. It ends with this process, in whatever way.

    Args:
        repository: a built model repository.
        folder: for its settings, its log and its keys.

    Attributes:
        grpc, http, monolithic: host:port.
        pid: of the supervisor.
        said: the lines that it printed.

    Raises:
        ServingError: it does not start; with its last lines.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        self._command = [sys.executable, "-m", "lipsync_client.cli.main", "serve"]
        self._command += ["--repository", str(repository), "--config", str(folder / "server.yaml")]
        self._folder = folder
        self._announced = threading.Event()
        self.said: list[str] = []
        # Proxies are for other machines.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> Stack:
        (self._folder / "server.yaml").write_text(yaml.safe_dump(SETTINGS))
        variables = {**os.environ, "XDG_CACHE_HOME": str(self._folder), "COLUMNS": "1000"}
        self._child = Child(self._command, variables, self._take_line)
        self.pid = self._child.pid
        try:
            deadline = time.monotonic() + START_S
            while not self._announced.wait(0.2):
                if self._child.exit_status is not None or time.monotonic() > deadline:
                    raise ServingError("The server did not start: " + " ".join(self.said[-3:]))
            eventually(self.ready, START_S, "the server to be ready")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def ready(self) -> bool:
        """Whether `/readyz` says so."""
        try:
            with self._opener.open(f"http://{self.http}/readyz", timeout=30) as answer:
                return bool(answer.status == 200)
        except (urllib.error.HTTPError, OSError):
            return False

    def parts(self) -> dict[str, int]:
        """Process ids of what runs: `triton`, `gateway`, and each stage by its model."""
        found = {}
        for pid in process_tree(self.pid):
            if b"\0gateway\0" in _arguments(pid):
                found["gateway"] = pid
        own = f"_{self.pid}_"
        for triton, owner in leftovers.processes(leftovers.SERVER):
            if own in owner:
                found["triton"] = triton
                found |= {model: pid for pid, model in StageWatch(triton).names().items()}
        return found

    def _take_line(self, line: str) -> None:
        self.said.append(line.rstrip("\n"))
        if match := LINE.match(line):
            self.grpc, self.http, self.monolithic = match.groups()
            self._announced.set()

    def _stop(self) -> None:
        if self._child.exit_status is None:
            self._child.signal(signal.SIGTERM)
        if not self._child.wait(STOP_S):
            self._child.signal(signal.SIGKILL)
            self._child.wait(STOP_S)


def eventually(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Wait for a condition; returns when it held, in monotonic seconds. Raises TimeoutError, which says `what`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(LOOK_S)
    return time.monotonic()


def process_tree(root: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(stat.parent.name)] = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
    tree = [root]
    for pid in tree:  # which grows meanwhile
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def _arguments(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
