"""The stages of a server, which are its child processes: which run, and which have ended without its notice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lipsync_server.serving.leftovers import STAGE

__all__ = ["StageWatch"]

NOTICED_S = 1.0  # Triton itself ends stages too, and has noticed their end by then


class StageWatch:
    """Finds stages that have ended while the server does not know it: it would send them requests for ever.

    Args:
        server: its process id.

    Attributes:
        running: the model of each stage process that ran at the last look.
    """

    def __init__(self, server: int) -> None:
        self._server = server
        self._names: dict[int, str] = {}
        self._names = self.names()  # before one can die
        self.running = list(self._names.values())
        self._dead: dict[int, float] = {}  # when each was first found dead

    def names(self) -> dict[int, str]:
        """The model of each stage that runs, by process id."""
        return {pid: self._name(pid) for pid, state in self._stages() if state != "Z"}

    def dead(self, now: float) -> str | None:
        """The model of a stage that has been dead for some time; None: there is none.

        Args:
            now: monotonic seconds.
        """
        stages = dict(self._stages())
        self._names = {pid: self._name(pid) for pid in stages}
        self.running = [self._names[pid] for pid, state in stages.items() if state != "Z"]
        self._dead = {pid: self._dead.get(pid, now) for pid, state in stages.items() if state == "Z"}
        return next((self._names[pid] for pid, since in self._dead.items() if now - since >= NOTICED_S), None)

    def dead_for(self, now: float) -> float:
        """Seconds since a stage was first found dead, as of the last call of `dead`; 0: none is."""
        return max((now - since for since in self._dead.values()), default=0.0)

    def _name(self, pid: int) -> str:
        """A dead one has no arguments any more, so they are remembered."""
        if pid in self._names and self._names[pid] != "?":
            return self._names[pid]
        try:
            model = Path((Path("/proc") / str(pid) / "cmdline").read_text(errors="replace").split("\0")[1])
        except (OSError, IndexError):
            return "?"
        return model.parent.parent.name

    def _stages(self) -> Iterator[tuple[int, str]]:
        """Process id and state of the server's stages."""
        for pid in _children(self._server):
            with contextlib.suppress(OSError):
                head, _, tail = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
                # The kernel keeps 15 letters of a program's name.
                if head.partition("(")[2] == STAGE[:15] and tail.split()[1] == str(self._server):
                    yield pid, tail.split()[0]


def _children(pid: int) -> set[int]:
    """The child processes of a process, which each of its threads may have started."""
    found: set[int] = set()
    threads = list(Path(f"/proc/{pid}/task").glob("*"))
    for thread in threads:
        try:
            found.update(map(int, (thread / "children").read_text().split()))
        except FileNotFoundError:
            if thread.exists():  # a kernel without such lists: every process is looked at
                return {int(path.name) for path in Path("/proc").glob("[0-9]*")}
        except OSError:
            continue
    return found
