"""Several `lipsync serve` behind Envoy with the shipped settings; each can be killed, drained and replaced."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from deployment import free_ports, program, read

from lipsync_server.reliability.stack import process_tree

START_S = 150
# As the chart's pods, but for the probes: they come more often, so that a test need not wait for them.
SETTINGS = {"load": ["lipsync_ensemble"], "exit_timeout": 5, "gateway": {"probe_interval_s": 1.0}}


def eventually(condition: Callable[[], object], what: str, seconds: float = START_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.1)


@dataclass
class Replica:
    """One `lipsync serve` on a port of its own."""

    repository: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it; `wait` tells when it serves."""
        self.folder.mkdir(exist_ok=True)
        ports = {"grpc": self.port, "http": 0, "metrics": 0, "monolithic": 0}
        (self.folder / "server.yaml").write_text(yaml.safe_dump({**SETTINGS, "ports": ports}))
        command = [sys.executable, "-m", "lipsync_client.cli.main", "serve", "--config", self.folder / "server.yaml"]
        variables = {**os.environ, "XDG_CACHE_HOME": str(self.folder)}
        with (self.folder / "out").open("wb") as out:
            self.process = subprocess.Popen(
                [*command, "--repository", self.repository], env=variables, stdout=out, stderr=out
            )

    def wait(self) -> None:
        assert self.process is not None
        eventually(lambda: "Serving " in self.said() or self.process.poll() is not None, "a replica to serve")
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        return (self.folder / "out").read_text()

    def kill(self) -> None:
        """As if its machine were gone: supervisor, gateway, Triton and stages at once."""
        assert self.process is not None
        for pid in process_tree(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(20)

    def drain(self) -> None:
        """As Kubernetes stops a pod: it must end in order."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.said()


@dataclass
class Envoy:
    """A running Envoy: where callers reach it, and the certificate that they trust."""

    address: str
    certificate: Path
    admin: str

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.admin}/{path}", timeout=20) as answer:
            return json.load(answer)

    def healthy(self) -> list[int]:
        """The ports of the replicas that it sends requests to."""
        (cluster,) = self.ask("clusters?format=json")["cluster_statuses"]
        return sorted(
            host["address"]["socket_address"]["port_value"]
            for host in cluster.get("host_statuses", [])
            if host["health_status"] == {"eds_health_status": "HEALTHY"}
        )

    def count(self, name: str) -> int:
        """A counter of the cluster."""
        found = self.ask(f"stats?format=json&filter=^cluster.lipsync.{name}$")["stats"]
        return sum(one["value"] for one in found)


@contextlib.contextmanager
def envoy(folder: Path, ports: list[int]) -> Iterator[Envoy]:
    """Envoy with deploy/envoy/envoy.yaml. Changed are addresses, and where the certificate is."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    options = ["-days", "2", "-subj", "/CN=localhost", "-addext", names, "-keyout", key, "-out", certificate]
    subprocess.run([*new, *options], check=True, capture_output=True, timeout=30)
    public, admin = free_ports(2)
    text = (yaml.safe_dump(read("envoy/envoy.yaml"))).replace("/etc/envoy/tls/", f"{folder}/")
    config = yaml.safe_load(text)
    config["admin"]["address"]["socket_address"]["port_value"] = admin
    (listener,) = config["static_resources"]["listeners"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": public}
    (cluster,) = config["static_resources"]["clusters"]
    addresses = [{"socket_address": {"address": "127.0.0.1", "port_value": port}} for port in ports]
    (group,) = cluster["load_assignment"]["endpoints"]
    group["lb_endpoints"] = [{"endpoint": {"address": address}} for address in addresses]
    (folder / "envoy.yaml").write_text(yaml.safe_dump(config))
    command = [program("envoy"), "-c", folder / "envoy.yaml", "--use-dynamic-base-id", "--concurrency", "1"]
    with (folder / "envoy.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        found = Envoy(f"127.0.0.1:{public}", certificate, f"127.0.0.1:{admin}")

        def answers() -> bool:
            assert process.poll() is None, (folder / "envoy.log").read_text()[-3000:]
            with contextlib.suppress(OSError):
                return bool(found.ask("clusters?format=json"))
            return False

        eventually(answers, "Envoy to start", 30)
        yield found
    finally:
        for pid in process_tree(process.pid)[::-1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        process.wait(20)
