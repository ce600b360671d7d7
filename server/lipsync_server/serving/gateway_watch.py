"""Notices a gateway that hangs, and a Triton that does: both run and answer nothing."""

from __future__ import annotations

import threading
import time
from http.client import HTTPException

from lipsync_server.serving.gateway_process import GatewayProcess

__all__ = ["GatewayWatch"]

ASK_S = 1.0  # between two questions
START_S = 120.0  # that a gateway may take until its first answer
SILENT_S = 30.0  # and later
TRITON_S = 30.0  # that a Triton is given from its start to its first frame


class GatewayWatch:
    """Asks a gateway again and again, in a thread: a question may take longer than the one who heals can wait.

    Args:
        gateway: it runs.
    """

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._hung_at: float | None = None  # when it last said so; None: it works
        self._due = time.monotonic() + START_S
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="gateway-watch", daemon=True)
        self._thread.start()

    def is_gateway_hung(self, now: float) -> bool:
        """Whether it has not answered in time. `now` is monotonic, in seconds."""
        return now > self._due

    def is_triton_hung(self, started: float) -> bool:
        """Whether the gateway says that its Triton hangs. `started`: when that Triton was ready."""
        return self._hung_at is not None and self._hung_at > started + TRITON_S

    def stop(self) -> None:
        """Ask no more. It does not wait for an answer."""
        self._stopped.set()

    def _ask(self) -> None:
        while not self._stopped.wait(ASK_S):
            asked = time.monotonic()
            try:
                hung = self._gateway.is_triton_hung()
            except (OSError, HTTPException):  # the latter: an answer that is cut off
                continue
            self._hung_at = asked if hung else None
            self._due = time.monotonic() + SILENT_S
