"""A process that this one starts, and that ends with it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from lipsync_server.serving.errors import ServingError

__all__ = ["Child"]

LAUNCH_S = 30.0
# Asks Linux for SIGTERM (15) at the end of the parent and becomes the program. A `preexec_fn` would do so without
# another program, but needs a whole fork, in which gRPC's threads come back to life and abort for want of their files.
END_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):  # else it has ended already
    os.execv(sys.argv[2], sys.argv[2:])
"""


class Child:
    """A program, launched when this object is made. It gets SIGTERM when this process ends, in whatever way.

    Args:
        command: its arguments.
        variables: its environment.
        take_line: gets each line that it prints, in a thread of its own.
        stdin: what it reads; None: nothing.
    """

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        take_line: Callable[[str], None],
        stdin: IO[bytes] | None = None,
    ) -> None:
        self._take_line = take_line
        self._process: subprocess.Popen[str] | None = None
        self._error: OSError | None = None
        self._launched = threading.Event()
        # One thread launches it and reads its output, because Linux sends the death signal when the *thread* that
        # launched a process ends. A signal to this process is handled in another, so none gets lost half launched.
        self._thread = threading.Thread(target=self._run, args=(command, variables, stdin), daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Raises ServingError if it could not be launched."""
        return self._launch().pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative: the signal that ended it. Raises ServingError if it could not be launched."""
        return self._launch().poll()

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        self._launch().send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, after at most so many seconds. Its output has then been read."""
        try:
            self._launch().wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._thread.join(seconds)
        return True

    def _launch(self) -> subprocess.Popen[str]:
        self._launched.wait(LAUNCH_S)
        if self._process is None:
            raise ServingError(f"The server could not be launched: {self._error}.")
        return self._process

    def _run(self, command: Sequence[str], variables: Mapping[str, str], stdin: IO[bytes] | None) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", END_WITH_PARENT, str(os.getpid()), *command],
                env=variables,
                stdin=stdin or subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches this process only, which then stops the child in order
            )
        except OSError as error:
            self._error = error
            return
        finally:
            self._launched.set()
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._take_line(line)
