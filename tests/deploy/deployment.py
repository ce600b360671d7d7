"""Where the files of deploy/ are, and how tests read them."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from checkout import ROOT

DEPLOY = ROOT / "deploy"


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
