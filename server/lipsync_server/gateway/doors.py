"""Where requests come in: TLS, and who sends them, for gRPC and for HTTP."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lipsync_client.connection import SESSION_HEADER
from lipsync_client.tls import check_certificate
from lipsync_server.gateway.callers import host_of
from lipsync_server.gateway.metrics import Metrics
from lipsync_server.gateway.observer import Observer
from lipsync_server.gateway.reading import Reading
from lipsync_server.gateway.refusal import Refused, invalid
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
LARGE = 16 << 20  # bytes of a message that is not to wait for the garbage collector's own time
COLLECT_S = 1.0
OPEN_PATHS = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")


class GrpcDoor(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Identifies the sender of every gRPC call and observes the call, except of `OPEN_METHODS`; only then, what it
    sends is read.

    A method that takes one message is answered as one that takes a stream of them. On the wire this is the same; but
    gRPC reads the message only when it is asked to.

    Args:
        protocol: what the port speaks, as the observer wants it.
        tokens, metrics, observer, reading: of the gateway.
    """

    def __init__(self, protocol: str, tokens: Tokens, metrics: Metrics, observer: Observer, reading: Reading) -> None:
        self._protocol = protocol
        self._tokens, self._metrics, self._observer, self._reading = tokens, metrics, observer, reading

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        name = None if details.method.startswith(OPEN_METHODS) else details.method.rpartition("/")[2]
        if handler.response_streaming:
            answers = self._streaming(handler, name)
            return grpc.stream_stream_rpc_method_handler(answers, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(self._unary(handler, name), None, handler.response_serializer)

    def _unary(self, handler: Any, name: str | None) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(requests: Any, context: Any) -> Any:
            asked = self._reading.message(_Requests(context))
            async with self._entered(context, name, stream=False) as record, asked as data:
                record.bytes_in = len(data)
                try:
                    result = await handler.unary_unary(_parsed(handler, data), context)
                finally:
                    if len(data) > LARGE:  # a refusal may leave a circle with the message in it
                        asyncio.get_running_loop().call_later(COLLECT_S, gc.collect)
                    # gRPC's context keeps the exception of `abort`, which has this frame, until the garbage collector
                    # finds the circle: so many refused requests of 120 MB would still be in memory.
                    del data
                record.bytes_out = len(result) if isinstance(result, bytes) else 0
                return result

        return answer

    def _streaming(self, handler: Any, name: str | None) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def answer(requests: Any, context: Any) -> AsyncIterator[Any]:
            async with self._entered(context, name, stream=True):
                if handler.request_streaming:
                    asked = (_parsed(handler, data) async for data in self._reading.messages(requests))
                    answers = handler.stream_stream(asked, context)
                else:
                    async with self._reading.message(requests) as data:
                        request = _parsed(handler, data)
                    answers = handler.unary_stream(request, context)
                if inspect.isawaitable(answers):  # it writes its answers itself
                    await answers
                    return
                async for one in answers:
                    yield one

        return answer

    @asynccontextmanager
    async def _entered(self, context: Any, name: str | None, *, stream: bool) -> AsyncIterator[Record]:
        """Its refusals are counted, and are the call's status. `name`: of the method; None for an open one."""
        headers, host = dict(context.invocation_metadata() or ()), host_of(context.peer())
        try:
            if name is None:
                yield Record(0.0, self._protocol, "", host)
                return
            begin = self._observer.stream if stream else self._observer.request
            with begin(self._protocol, name, host, carrier=headers) as record:
                try:
                    self._tokens.identify(headers.get("authorization"), record.caller, headers.get(SESSION_HEADER))
                    record.token = token_name()
                    yield record
                except grpc.aio.AbortError:
                    record.code = _status(context)
                    raise
        except Refused as refused:
            self._metrics.refusals.labels(refused.reason).inc()
            await context.abort(refused.code, refused.sentence)


class _Requests:
    """The messages of a call. gRPC's own iterator of them has the last one until it is asked for another."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> bytes:
        message: bytes = await self._context.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message


def _status(context: Any) -> str:
    """The name of the status with which a call was ended."""
    code = context.code()
    return str(code.name) if isinstance(code, grpc.StatusCode) else STATUSES.get(code, str(code))


def _parsed(handler: Any, data: bytes) -> Any:
    """A message as the method takes it. Raises Refused."""
    try:
        return handler.request_deserializer(data) if handler.request_deserializer else data
    except DecodeError:
        raise invalid("the bytes of the message cannot be parsed", "unparsable") from None
    finally:
        del data  # as above


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
            record.code = record.code or "CANCELLED"  # its caller has gone before there was an answer


def server_credentials(certificate: str, key: str) -> grpc.ServerCredentials:
    """TLS for a gRPC port, from two PEM files. Raises LipsyncError as `check_certificate`."""
    check_certificate(certificate, key)
    return grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(certificate).read_bytes())])
