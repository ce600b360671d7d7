"""Programs that end with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lipsync_server.serving.child import Child

SECONDS = 60


def test_it_prints_reads_and_ends_with_its_status() -> None:
    lines: list[str] = []
    program = "import sys; print(sys.stdin.read()); print('trouble', file=sys.stderr); sys.exit(7)"
    with tempfile.TemporaryFile() as given:
        given.write(b"settings")
        given.seek(0)
        child = Child([sys.executable, "-c", program], os.environ, lines.append, given)
        assert child.wait(SECONDS)
    assert sorted(lines) == ["settings\n", "trouble\n"]
    assert child.exit_status == 7


def test_a_program_that_is_not_there_ends_and_says_so() -> None:
    lines: list[str] = []
    child = Child(["/nowhere/tritonserver"], os.environ, lines.append)
    assert child.wait(SECONDS)
    assert child.exit_status == 1
    assert "No such file or directory" in lines[-1]


def test_it_ends_when_its_owner_is_killed() -> None:
    program = (
        "import os, sys, time; from lipsync_server.serving.child import Child\n"
        "print(Child([sys.executable, '-c', 'print(1, flush=True); import time; time.sleep(600)'], os.environ,"
        " lambda line: print(line, flush=True)).pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout as output:
        pid = max(int(output.readline()), int(output.readline()))  # in either order, with the child's own "1"
        owner.send_signal(signal.SIGKILL)
        owner.wait(SECONDS)
    deadline = time.monotonic() + SECONDS
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][1] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)
