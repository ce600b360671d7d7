"""What no HTTP request may do here, whatever it asks for: ASGI around the application."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lipsync_server.gateway.metrics import Metrics

__all__ = ["Guard"]

HERE = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Refuses pages of other origins, bodies that are too large, packed, or of no stated length.

    Args:
        app: gets what is left.
        bind: the address that the gateway listens on. Where it is this machine's own, requests for any other host
            name are a web page's attempt to reach it.
        max_body: bytes of a body.
        metrics: refusals are counted there.
    """

    def __init__(self, app: ASGIApp, bind: str, max_body: int, metrics: Metrics) -> None:
        self._app = app
        self._loopback = bind == "localhost" or ipaddress.ip_address(bind).is_loopback
        self._max_body = max_body
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, reason, sentence = refusal
        self._metrics.refusals.labels(reason).inc()
        # The connection is closed: nothing more of such a request is read.
        response = JSONResponse({"error": sentence}, status, headers={"connection": "close"})
        await response(scope, receive, send)

    def _refusal(self, headers: Headers) -> tuple[int, str, str] | None:
        """Status, reason and sentence."""
        host = headers.get("host", "")
        if self._loopback and _hostname(f"//{host}") not in HERE:
            return 403, "host", "this gateway answers requests to this machine's own name only"
        origin = headers.get("origin")
        if (origin is not None and origin.partition("//")[2] != host) or headers.get("sec-fetch-site") in (
            *("cross-site", "same-site"),
        ):
            return 403, "origin", "requests of web pages of other origins are not answered"
        if headers.get("content-encoding", "identity") != "identity":
            return 415, "compressed", "send the body as it is, not compressed"
        if "transfer-encoding" in headers:
            return 411, "chunked", "send the body with a Content-Length, not in chunks"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self._max_body:
            return 413, "size", f"the body has {length:.20} bytes: at most {self._max_body} are taken"
        return None


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
