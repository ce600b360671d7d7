"""How many requests are open, of each caller and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

import grpc

from lipsync_mel import refusals
from lipsync_server.gateway.refusal import Refused, overloaded

__all__ = ["Callers", "host_of"]


class Callers:
    """Limits for requests that are open at once.

    Args:
        each: of one caller.
        all_together: of all.
    """

    def __init__(self, each: int, all_together: int) -> None:
        self._each, self._all_together = each, all_together
        self._open: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """Requests that are open now."""
        return self._open.total()

    @contextmanager
    def admitted(self, caller: str) -> Iterator[None]:
        """A request is open while the block runs. Raises Refused where that is one too many."""
        if self._open[caller] >= self._each:
            sentence = f"{self._each} requests of this caller are open, which is all that it may have: try again soon"
            text = refusals.coded(refusals.OVERLOADED, sentence)
            raise Refused(grpc.StatusCode.UNAVAILABLE, text, "caller's limit")
        if self.open >= self._all_together:
            raise overloaded(f"{self._all_together} requests are open, which is all that the gateway takes")
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]


def host_of(peer: str) -> str:
    """Who calls, on every port the same: the address in what gRPC calls a peer, as "ipv4:127.0.0.1:40000"."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else peer
