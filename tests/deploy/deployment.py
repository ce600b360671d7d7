"""Where the files of deploy/ are, and how tests read them."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from checkout import ROOT
from lipsync_server.serving.environment import backend_folder, find_wheel, server_environment

DEPLOY = ROOT / "deploy"
KEY = "a-secret-of-this-test"


def read(name: str) -> Any:
    """A YAML file of deploy/."""
    return yaml.safe_load((DEPLOY / name).read_text())


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def program(name: str) -> str:
    """A program beside this Python. Raises AssertionError if `make deploy-check` has not installed it."""
    path = Path(sys.executable).with_name(name)
    assert path.exists(), f"{name} is missing: pip install -r deploy/requirements.txt"
    return str(path)


def stage_process(server: int, stage: str) -> int:
    """Process id of a Python stage of a tritonserver."""
    command = ["pgrep", "-P", str(server), "-f", f"/{stage}/1/"]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout)


@contextlib.contextmanager
def entry_point(repository: Path | str, folder: Path, *more: str) -> Iterator[tuple[int, dict[str, int]]]:
    """triton.sh with the embedded server in place of the image's. Yields its pid and ports. `more`: options."""
    wheel = find_wheel()
    ports = dict(zip(("grpc", "http", "metrics"), free_ports(3), strict=True))
    environment = {**server_environment(wheel, "none"), "LIPSYNC_CONTROL_KEY": KEY, "LIPSYNC_GPU_CONFIGS": "plain"}
    environment |= {"LIPSYNC_REPOSITORY": str(repository)}
    environment["PATH"] = f"{wheel.binary.parent}:{environment['PATH']}"
    options = ["--exit-timeout-secs=2", *(f"--{name}-port={port}" for name, port in ports.items()), *more]
    environment["LIPSYNC_TRITON_OPTIONS"] = f"--backend-directory={backend_folder(wheel)}"
    with (folder / "triton.log").open("w") as log:
        process = subprocess.Popen([DEPLOY / "docker/triton.sh", *options], env=environment, stdout=log, stderr=log)
        try:
            yield process.pid, ports
        finally:
            process.send_signal(signal.SIGTERM)  # a stage of it is dead: it ends by its time-out
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait(10)
