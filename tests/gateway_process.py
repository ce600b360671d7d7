"""`lipsync gateway` as a process of its own, before Tritons that a test names."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SECONDS = 60
LINE = re.compile(r"Answering at grpc (\S+), http http://(\S+), monolithic (\S+) for .*")


@dataclass
class Gateway:
    """A running gateway and where it answers."""

    grpc: str
    http: str
    monolithic: str
    process: subprocess.Popen[str]

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body of a GET over HTTP."""
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"http://{self.http}{path}", headers=headers), timeout=SECONDS
            ) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def metric(self, name: str) -> float:
        """A metric's value, summed over its labels."""
        text = self.get("/metrics")[1].decode()
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, values))

    def wait(self, ready: bool = True) -> None:
        """Until it says that it is ready, or not."""
        deadline = time.monotonic() + SECONDS
        while (self.get("/readyz")[0] == 200) != ready:
            assert time.monotonic() < deadline, self.get("/readyz")
            time.sleep(0.05)


@contextlib.contextmanager
def gateway(folder: Path, *upstreams: str, key: str = "", **settings: Any) -> Iterator[Gateway]:
    """A gateway on free ports. It must end by Ctrl-C, silently, and leave no task behind.

    Args:
        folder: for its settings and what it prints.
        upstreams: host:port of each Triton.
        key: the upstreams' control key.
        settings: further keys of the section `gateway`, and the sections `registry` and `load`.
    """
    others = {name: settings.pop(name) for name in ("registry", "load") if name in settings}
    config, errors = folder / "gateway.yaml", folder / "gateway-errors.txt"
    config.write_text(yaml.safe_dump({"gateway": settings, **others}))
    command = [sys.executable, "-m", "lipsync_client.cli.main", "gateway", "--config", str(config)]
    command += [option for upstream in upstreams for option in ("--upstream", upstream)]
    command += ["--grpc-port", "0", "--http-port", "0", "--monolithic-port", "0"]
    variables = {**os.environ, "LIPSYNC_CONTROL_KEY": key, "XDG_CACHE_HOME": str(folder), "PYTHONWARNINGS": "default"}
    with errors.open("w") as into:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=into, text=True, env=variables)
    try:
        assert process.stdout is not None
        found = LINE.fullmatch(process.stdout.readline().strip())
        assert found, errors.read_text()
        yield Gateway(*found.groups(), process)
        assert process.poll() is None, errors.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, errors.read_text()
        printed = errors.read_text()
        assert not printed, printed
    finally:
        process.kill()
        process.wait(10)
