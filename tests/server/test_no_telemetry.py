"""No process of ours reports to the makers of onnxruntime and openvino, or leaves an identifier in the user's home.

Both send over HTTPS and honour `https_proxy`, so a proxy of the test hears whom they want to reach.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

IN_PROCESS = """
import sys
from pathlib import Path
import numpy as np
from lipsync_server.pipeline import LocalPipeline
list(LocalPipeline(Path(sys.argv[1])).render(np.zeros(640, np.float32)))
assert "onnxruntime" in sys.modules and "openvino" in sys.modules, "networks were not opened both ways"
"""
SERVED = """
import sys
from pathlib import Path
import numpy as np
from lipsync_client import Client
from lipsync_server.serving import Ports, ServerConfig, TritonServer
with TritonServer(Path(sys.argv[1]), ServerConfig(ports=Ports(0, 0, 0))) as server, Client(server.grpc_url) as client:
    assert len(list(client.render(np.zeros(640, np.float32)))) == 1
"""


class Proxy:
    """Notes the first line of every connection, then closes it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.heard: list[str] = []
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            connection = self._listener.accept()[0]
            with connection:
                line = connection.makefile("rb").readline()
            if not line:
                return
            self.heard.append(line.decode().strip())

    def close(self) -> None:
        socket.create_connection(self._listener.getsockname()).close()  # an empty line ends the thread
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    listening = Proxy()
    yield listening
    listening.close()


@pytest.fixture
def environment(tmp_path: Path, proxy: Proxy) -> dict[str, str]:
    """Of a new user, who has an empty home and no wishes about telemetry."""
    (tmp_path / "home").mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    here = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    return kept | here | {"https_proxy": proxy.url, "HTTPS_PROXY": proxy.url, "no_proxy": "127.0.0.1,localhost"}


@pytest.mark.parametrize("program", [IN_PROCESS, SERVED], ids=["in process", "served"])
def test_networks_report_to_nobody_and_leave_no_identifier(program, repository, environment, proxy, tmp_path):
    command = [sys.executable, "-c", program, str(repository)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    assert proxy.heard == []
    assert [path.name for path in (tmp_path / "home").rglob("*")] == []
    assert {path.name for path in (tmp_path / "cache").glob("*")} <= {"lipsync"}


def test_the_packages_switch_it_off_before_anything_else(environment):
    for package in ("lipsync_onnx.session", "lipsync_server.home", "lipsync_studio.networks"):
        program = (
            f"import {package}, os, sys; print(os.environ['ORT_DISABLE_TELEMETRY'], sys.modules['openvino_telemetry'])"
        )
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
        )
        assert run.stdout.split() == ["1", "None"], run.stderr
