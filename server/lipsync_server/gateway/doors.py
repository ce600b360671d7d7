"""Where requests come in: TLS, and who sends them, for gRPC and for HTTP."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lipsync_client.errors import LipsyncError
from lipsync_server.gateway.callers import host_of
from lipsync_server.gateway.metrics import Metrics
from lipsync_server.gateway.refusal import Refused
from lipsync_server.gateway.tokens import Tokens
from lipsync_server.gateway.upstream import SERVICE

__all__ = ["GrpcDoor", "HttpDoor", "server_credentials"]

# What probes ask, and what a tool needs to know before it can send a token.
OPEN_METHODS = (
    *("/grpc.health.", "/grpc.reflection."),
    *(f"/{SERVICE}/ServerLive", f"/{SERVICE}/ServerReady"),
)
OPEN_PATHS = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")


class GrpcDoor(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Identifies the sender of every gRPC call, except of `OPEN_METHODS`."""

    def __init__(self, tokens: Tokens, metrics: Metrics) -> None:
        self._tokens, self._metrics = tokens, metrics

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith(OPEN_METHODS):
            return handler
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary), handler.request_deserializer, handler.response_serializer
            )
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(handler.stream_stream), handler.request_deserializer, handler.response_serializer
            )
        raise NotImplementedError(f"{details.method}: no door for methods of its kind")

    def _unary(self, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(request: Any, context: Any) -> Any:
            await self._identify(context)
            return await behaviour(request, context)

        return answer

    def _stream(self, behaviour: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def answer(requests: Any, context: Any) -> AsyncIterator[Any]:
            await self._identify(context)
            async for one in behaviour(requests, context):
                yield one

        return answer

    async def _identify(self, context: Any) -> None:
        given = dict(context.invocation_metadata() or ()).get("authorization")
        try:
            self._tokens.identify(given, host_of(context.peer()))
        except Refused as refused:
            self._metrics.refusals.labels(refused.reason).inc()
            await context.abort(refused.code, refused.sentence)


class HttpDoor:
    """Identifies the sender of every HTTP request, except to `OPEN_PATHS`: ASGI around the application."""

    def __init__(self, app: ASGIApp, tokens: Tokens, metrics: Metrics) -> None:
        self._app, self._tokens, self._metrics = app, tokens, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            host = scope["client"][0] if scope.get("client") else ""
            try:
                self._tokens.identify(Headers(scope=scope).get("authorization"), host)
            except Refused as refused:
                self._metrics.refusals.labels(refused.reason).inc()
                # The connection is closed: nothing more of such a request is read.
                headers = {"www-authenticate": "Bearer", "connection": "close"}
                await JSONResponse({"error": refused.sentence}, 401, headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def server_credentials(certificate: str, key: str) -> grpc.ServerCredentials:
    """TLS for a gRPC port, from two PEM files. Raises LipsyncError if they cannot be used, or not together."""
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="")
        return grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(certificate).read_bytes())])
    except ssl.SSLError as error:
        raise LipsyncError(
            f"The certificate {certificate} and the key {key} cannot be used: they must be PEM files that belong"
            f" together, the key without a password ({error.reason or 'not PEM'})."
        ) from None
    except OSError as error:
        raise LipsyncError(
            f"The certificate {certificate} or the key {key} cannot be read: {error.strerror or error}."
        ) from None
