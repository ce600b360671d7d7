"""The gateway of a server, as a process of its own."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections import deque
from pathlib import Path
from typing import Any

import yaml

from lipsync_client.wire import SHIPPED_AVATAR, ensemble_of
from lipsync_server.serving.child import Child
from lipsync_server.serving.server_settings import Ports, ServerConfig

__all__ = ["GatewayProcess"]

PATIENCE_S = 30.0  # a request is held for so long: a server is replaced sooner, also by a machine that is busy
STOP_S = 10.0
ANSWER_S = 5.0
HUNG_HEADER = "lipsync-hung"  # as the gateway names it
ANSWERING = re.compile(r"Answering at ")


class GatewayProcess:
    """`lipsync gateway` with a server's settings, launched when this object is made.

    Args:
        config: the server's settings.
        ports: where it answers.
        upstream, metrics: host:port of the Triton, and of its metrics.
        key, inference_key: of that Triton.
        status: the file that says how its programs are.

    Attributes:
        url: of its HTTP port, as this machine reaches it.
    """

    def __init__(
        self,
        config: ServerConfig,
        ports: Ports,
        upstream: str,
        metrics: str,
        *,
        key: str,
        inference_key: str,
        status: Path | None = None,
    ) -> None:
        variables = {**os.environ, "LIPSYNC_CONTROL_KEY": key, "LIPSYNC_INFERENCE_KEY": inference_key}
        self._tail: deque[str] = deque(maxlen=30)
        scheme = "https" if isinstance(config.gateway, dict) and config.gateway.get("tls_cert") else "http"
        host = "127.0.0.1" if config.bind == "0.0.0.0" else config.bind  # noqa: S104
        self.url = f"{scheme}://{host}:{ports.http}"
        unnamed = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # its certificate is for the name that others call it by
        unnamed.check_hostname, unnamed.verify_mode = False, ssl.CERT_NONE
        direct = urllib.request.ProxyHandler({})  # never through a proxy
        self._opener = urllib.request.build_opener(direct, urllib.request.HTTPSHandler(context=unnamed))
        with tempfile.TemporaryFile() as settings:  # without a name, so nothing of it can be left
            settings.write(yaml.safe_dump(settings_of(config, ports, upstream, metrics, status)).encode())
            settings.flush()
            command = [sys.executable, "-m", "lipsync_client.cli.main", "gateway", "--config", "/dev/stdin"]
            self._child = Child(command, variables, self._take_line, settings)
            self.pid = self._child.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._child.exit_status

    def trouble(self) -> str | None:
        """Why it is not ready; None: it is, so a frame was made a moment ago."""
        try:
            with self._opener.open(f"{self.url}/readyz", timeout=ANSWER_S):
                return None
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode(errors="replace")
        except OSError as error:
            return str(error)

    def is_triton_hung(self) -> bool:
        """Whether its Triton has answered nothing for long. Raises OSError: the gateway itself does not answer."""
        try:
            with self._opener.open(f"{self.url}/readyz", timeout=ANSWER_S) as answer:
                return HUNG_HEADER in answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return HUNG_HEADER in error.headers

    def last_line(self) -> str:
        """The end of what it printed, which is why it ended."""
        return self._tail[-1] if self._tail else "it said nothing"

    def stop(self) -> None:
        """End it; requests that run get some seconds. Safe to call twice."""
        if self.exit_status is None:
            self._child.signal(signal.SIGTERM)
        if not self._child.wait(STOP_S):
            self._child.signal(signal.SIGKILL)
            self._child.wait(STOP_S)

    def kill(self) -> None:
        """End it at once."""
        self._child.signal(signal.SIGKILL)
        self._child.wait(STOP_S)

    def _take_line(self, line: str) -> None:
        if ANSWERING.match(line):  # `lipsync serve` says so itself
            return
        self._tail.append(line.rstrip("\n"))
        sys.stderr.write(line)


def settings_of(
    config: ServerConfig, ports: Ports, upstream: str, metrics: str, status: Path | None = None
) -> dict[str, Any]:
    """The file that `lipsync gateway` reads."""
    given = config.gateway if isinstance(config.gateway, dict) else {}
    registry = dataclasses.asdict(config.registry)
    del registry["keep"]
    return {
        "gateway": {
            "patience_s": PATIENCE_S,
            "probe_avatar": _probed(config),
            **given,
            "upstreams": [upstream],
            "upstream_metrics": metrics,
            "supervisor_status": str(status) if status else None,
            "bind": config.bind,
            "grpc_port": ports.grpc,
            "http_port": ports.http,
            "monolithic_port": ports.monolithic,
        },
        "registry": {name: list(value) if isinstance(value, tuple) else value for name, value in registry.items()},
        "load": list(config.load),
    }


def _probed(config: ServerConfig) -> str:
    """The avatar that must work: the first that is required, or else loaded."""
    shipped = ensemble_of(SHIPPED_AVATAR)
    names = [*config.required, *config.load]
    return SHIPPED_AVATAR if shipped in names or not names else names[0]
