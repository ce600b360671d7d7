"""Where requests come in: TLS, and who sends them, for gRPC and for HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lipsync_client.tls import check_certificate
from lipsync_client.wire import SESSION_HEADER
from lipsync_server.gateway.callers import host_of
from lipsync_server.gateway.metrics import Metrics
from lipsync_server.gateway.observer import Observer
from lipsync_server.gateway.refusal import Refused
from lipsync_server.gateway.request_log import Record
from lipsync_server.gateway.tokens import Tokens, token_name
from lipsync_server.gateway.upstream import SERVICE

__all__ = ["GrpcDoor", "HttpDoor", "server_credentials"]

# What probes ask, and what a tool needs to know before it can send a token.
OPEN_METHODS = (
    *("/grpc.health.", "/grpc.reflection."),
    *(f"/{SERVICE}/ServerLive", f"/{SERVICE}/ServerReady"),
)
STATUSES = {status.value[0]: status.name for status in grpc.StatusCode}  # some versions of gRPC give numbers
SIZE_DIGITS = 19
Unary = Callable[[bytes, Any], Awaitable[bytes]]
Stream = Callable[[Any, Any], AsyncIterator[bytes]]
OPEN_PATHS = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")


class GrpcDoor(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Identifies the sender of every gRPC call and observes the call, except of `OPEN_METHODS`.

    Args:
        protocol: what the port speaks, as the observer wants it.
        tokens, metrics, observer: of the gateway.
    """

    def __init__(self, protocol: str, tokens: Tokens, metrics: Metrics, observer: Observer) -> None:
        self._protocol = protocol
        self._tokens, self._metrics, self._observer = tokens, metrics, observer

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith(OPEN_METHODS):
            return handler
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(details.method, handler.unary_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(details.method, handler.stream_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        raise NotImplementedError(f"{details.method}: no door for methods of its kind")

    def _unary(self, method: str, behaviour: Unary) -> Unary:
        name = method.rpartition("/")[2]

        async def answer(request: bytes, context: Any) -> bytes:
            headers, host = dict(context.invocation_metadata() or ()), host_of(context.peer())
            with self._observer.request(self._protocol, name, host, len(request), headers) as record:
                try:
                    await self._identify(context, record, headers)
                    answer = await behaviour(request, context)
                except grpc.aio.AbortError:
                    record.code = _status(context)
                    raise
                record.bytes_out = len(answer)
                return answer

        return answer

    def _stream(self, method: str, behaviour: Stream) -> Stream:
        name = method.rpartition("/")[2]

        async def answer(requests: Any, context: Any) -> AsyncIterator[bytes]:
            headers, host = dict(context.invocation_metadata() or ()), host_of(context.peer())
            with self._observer.stream(self._protocol, name, host, headers) as record:
                try:
                    await self._identify(context, record, headers)
                    async for one in behaviour(requests, context):
                        yield one
                except grpc.aio.AbortError:
                    record.code = _status(context)
                    raise

        return answer

    async def _identify(self, context: Any, record: Record, headers: Mapping[str, str]) -> None:
        try:
            self._tokens.identify(headers.get("authorization"), record.caller, headers.get(SESSION_HEADER))
            record.token = token_name()
        except Refused as refused:
            self._metrics.refusals.labels(refused.reason).inc()
            await context.abort(refused.code, refused.sentence)


def _status(context: Any) -> str:
    """The name of the status with which a call was ended."""
    code = context.code()
    return str(code.name) if isinstance(code, grpc.StatusCode) else STATUSES.get(code, str(code))


class HttpDoor:
    """Identifies the sender of every HTTP request and observes it, except to `OPEN_PATHS`: ASGI around the application.

    Args:
        app: the application.
        tokens, metrics, observer: of the gateway.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, metrics: Metrics, observer: Observer) -> None:
        self._app, self._tokens, self._metrics, self._observer = app, tokens, metrics, observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = scope["client"][0] if scope.get("client") else ""
        length = headers.get("content-length", "0")
        size = int(length) if length.isdecimal() and len(length) < SIZE_DIGITS else 0
        with self._observer.request("http", f"{scope['method']} {scope['path']}", host, size, headers) as record:

            async def sent(message: Message) -> None:
                if message["type"] == "http.response.start":
                    record.code = str(message["status"])
                record.bytes_out += len(message.get("body", b""))
                await send(message)

            try:
                self._tokens.identify(headers.get("authorization"), host, headers.get(SESSION_HEADER))
                record.token = token_name()
            except Refused as refused:
                self._metrics.refusals.labels(refused.reason).inc()
                # The connection is closed: nothing more of such a request is read.
                closing = {"www-authenticate": "Bearer", "connection": "close"}
                await JSONResponse({"error": refused.sentence}, 401, closing)(scope, receive, sent)
                return
            await self._app(scope, receive, sent)


def server_credentials(certificate: str, key: str) -> grpc.ServerCredentials:
    """TLS for a gRPC port, from two PEM files. Raises LipsyncError as `check_certificate`."""
    check_certificate(certificate, key)
    return grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(certificate).read_bytes())])
