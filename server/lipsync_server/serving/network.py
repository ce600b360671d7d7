"""The server's ports, and the few HTTP calls that tell how it is."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import socket
import urllib.error
import urllib.request

from lipsync_server.serving.control_key import HEADER
from lipsync_server.serving.errors import ServingError
from lipsync_server.serving.server_settings import Ports


def choose_ports(bind: str, ports: Ports) -> Ports:
    """Replace 0 by free ports and make sure that the others are free.

    Raises:
        ServingError: a port is in use or not allowed; names the port and its option.
    """
    chosen = {}
    with contextlib.ExitStack() as held:  # until all are chosen, so that none is given twice
        for name, port in vars(ports).items():
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not count
            try:
                probe.bind((bind, port))
            except OSError as error:
                in_use = error.errno == errno.EADDRINUSE
                problem = "is in use: stop what holds it, or" if in_use else f"cannot be used ({error.strerror}):"
                raise ServingError(
                    f"Port {port} ({name}) on {bind} {problem} choose another with --{name}-port or "
                    f"`ports.{name}` in server.yaml."
                ) from None
            chosen[name] = probe.getsockname()[1]
    return Ports(**chosen)


class HttpApi:
    """Triton's HTTP API, as far as starting a server needs it."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._key = key
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy

    def is_live(self) -> bool:
        return self._answers("v2/health/live")

    def is_ready(self, model: str) -> bool:
        return self._answers(f"v2/models/{model}/ready")

    def load(self, model: str, timeout: float) -> str | None:
        """Load a model; returns why it failed, or None.

        For an ensemble the reason is that of its failing step.
        """
        try:
            self._call(f"v2/repository/models/{model}/load", timeout, body=b"{}")
        except urllib.error.HTTPError as error:
            return _reason(error.read())
        except OSError as error:
            return str(error)
        return None

    def _answers(self, path: str) -> bool:
        try:
            self._call(path, timeout=5)
        except OSError:  # refused, timed out, or an HTTP error status
            return False
        return True

    def _call(self, path: str, timeout: float, body: bytes | None = None) -> None:
        request = urllib.request.Request(f"http://{self._url}/{path}", data=body, headers={HEADER: self._key})
        with self._opener.open(request, timeout=timeout):
            pass


def _reason(answer: bytes) -> str:
    """The useful part of Triton's answer to a failed load."""
    try:
        text = str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        text = answer.decode(errors="replace")
    text = text.partition("\n\nAt:\n")[0]  # where in a Python stage it was raised: the log has it
    text = re.sub(r"^load failed for model '[^']*': ", "", text)
    step = re.search(
        r"Model '([^']+)' loading failed with error: (?:version \d+ is at UNAVAILABLE state: )?(.*)", text, re.S
    )
    if step:
        text = f"its step {step[1]}: {step[2]}"
    return " ".join(text.split()).rstrip(" .;")
