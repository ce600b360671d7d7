"""KServe v2 over HTTP for the public models, health and metrics: an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from tritonclient.grpc import service_pb2 as pb

from lipsync_server.gateway import checks, control
from lipsync_server.gateway.gateway import Call, Gateway
from lipsync_server.gateway.grpc_front import open_extensions
from lipsync_server.gateway.http_guard import Guard
from lipsync_server.gateway.http_tensors import HEADER_LENGTH, as_http, as_request
from lipsync_server.gateway.messages import as_json, encoded
from lipsync_server.gateway.refusal import Refused, invalid, overloaded
from lipsync_server.gateway.status import status_of
from lipsync_server.gateway.tokens import caller_of
from lipsync_server.gateway.upstream_metrics import fetched

__all__ = ["http_application"]

STATUS = {  # of HTTP for those of gRPC; others are 500
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.CANCELLED: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
CALLERS_LIMIT = 429
HUNG_HEADER = "lipsync-hung"  # of the answer about readiness, for the one who can start a server again
CONTROL_HEADER = "lipsync-control"  # as Triton itself names it over HTTP
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


def http_application(gateway: Gateway) -> ASGIApp:
    """The application of the HTTP port."""
    front = _Front(gateway)
    routes = [
        _route("/healthz", front.live),
        _route("/readyz", front.server_ready),
        _route("/metrics", front.metrics),
        _route("/status", front.status),
        _route("/v2", front.server),
        _route("/v2/health/live", front.live),
        _route("/v2/health/ready", front.server_ready),
        _route("/v2/models/stats", front.statistics),
        _route("/v2/repository/index", front.repository_index, "POST"),
        _route("/v2/repository/models/{model}/load", front.repository_load, "POST"),
        _route("/v2/repository/models/{model}/unload", front.repository_unload, "POST"),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            _route(model, front.model),
            _route(f"{model}/ready", front.model_ready),
            _route(f"{model}/config", front.model_config),
            _route(f"{model}/stats", front.statistics),
            _route(f"{model}/infer", front.infer, "POST"),
        ]
    routes.append(_route("/v2/{closed:path}", front.closed, "GET", "POST"))
    size = gateway.settings.max_body_mb << 20
    return Guard(Starlette(routes=routes), gateway.settings.bind, size, gateway.metrics)


def _route(path: str, handle: Handler, *methods: str) -> Route:
    """A path whose refusals are answers."""

    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except Refused as refused:
            status = CALLERS_LIMIT if refused.reason == "caller's limit" else STATUS.get(refused.code, 500)
            return JSONResponse({"error": refused.sentence}, status)

    return Route(path, answer, methods=list(methods) or ["GET"])


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. It is cancelled when its caller has gone."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _gone()
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    """Return when the connection is closed; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _gone() -> Refused:
    return Refused(grpc.StatusCode.CANCELLED, "the caller has gone", "gone")


class _Front:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._reading = 0  # bytes of bodies

    async def live(self, request: Request) -> Response:
        return PlainTextResponse("")

    async def server_ready(self, request: Request) -> Response:
        hung = {HUNG_HEADER: "true"} if self._gateway.hung else None
        if self._gateway.ready:
            return PlainTextResponse("", headers=hung)
        sentence = f"no server is ready: {self._gateway.upstreams.trouble()}"
        return JSONResponse({"error": sentence}, 503, hung)

    async def metrics(self, request: Request) -> Response:
        text = self._gateway.metrics_text()
        if address := self._gateway.settings.upstream_metrics:
            text += await asyncio.to_thread(fetched, address)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def status(self, request: Request) -> Response:
        return JSONResponse(await status_of(self._gateway))

    async def server(self, request: Request) -> Response:
        answer = await self._gateway.upstreams.send("ServerMetadata", b"")
        return JSONResponse(as_json(open_extensions(pb.ServerMetadataResponse.FromString(answer))))

    async def model_ready(self, request: Request) -> Response:
        ready = False
        if self._gateway.ready:
            answer = await self._about(request, "ModelReady", pb.ModelReadyRequest)
            ready = pb.ModelReadyResponse.FromString(answer).ready
        return PlainTextResponse("", 200 if ready else 400)

    async def model(self, request: Request) -> Response:
        answer = await self._about(request, "ModelMetadata", pb.ModelMetadataRequest)
        return JSONResponse(as_json(pb.ModelMetadataResponse.FromString(answer)))

    async def model_config(self, request: Request) -> Response:
        answer = await self._about(request, "ModelConfig", pb.ModelConfigRequest)
        return JSONResponse(as_json(pb.ModelConfigResponse.FromString(answer).config))

    async def statistics(self, request: Request) -> Response:
        answer = await self._about(request, "ModelStatistics", pb.ModelStatisticsRequest)
        return JSONResponse(as_json(pb.ModelStatisticsResponse.FromString(answer)))

    async def infer(self, request: Request) -> Response:
        call = Call("http", caller_of(request.client.host if request.client else ""))
        with self._gateway.counted(call):  # from here on: reading the body takes memory too
            model, version = request.path_params["model"], request.path_params.get("version", "")
            checks.check_name(model, version)
            body = await self._body(request)
            contract = await self._gateway.contract_loading(model)
            asked = as_request(model, version, contract, body, self._json_size(request, body))
            answer = await _unless_gone(request, self._gateway.infer_message(asked.request, call))
        content, json_size = as_http(answer.data, asked.binary)
        if json_size is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(json_size)})

    async def repository_index(self, request: Request) -> Response:
        answer = await self._controlled(request, "RepositoryIndex", pb.RepositoryIndexRequest())
        return JSONResponse([as_json(model) for model in pb.RepositoryIndexResponse.FromString(answer).models])

    async def repository_load(self, request: Request) -> Response:
        message = pb.RepositoryModelLoadRequest(model_name=request.path_params["model"])
        await self._controlled(request, "RepositoryModelLoad", message)
        return PlainTextResponse("")

    async def repository_unload(self, request: Request) -> Response:
        message = pb.RepositoryModelUnloadRequest(model_name=request.path_params["model"])
        await self._controlled(request, "RepositoryModelUnload", message)
        return PlainTextResponse("")

    async def closed(self, request: Request) -> Response:
        sentence = "shared memory, trace and log settings are closed here, and other paths are unknown"
        return JSONResponse({"error": sentence}, 403)

    async def _about(self, request: Request, method: str, kind: type[Any]) -> bytes:
        """A call that names a model, or none for all."""
        name, version = request.path_params.get("model", ""), request.path_params.get("version", "")
        if name:
            checks.check_name(name, version)
        return await self._gateway.about(method, name, encoded(kind(name=name, version=version)))

    async def _controlled(self, request: Request, method: str, message: Message) -> bytes:
        key = request.headers.get(CONTROL_HEADER, "")
        return await control.controlled(self._gateway, method, encoded(message), key)

    async def _body(self, request: Request) -> bytes:
        """All of the body, in time, where memory is left for it."""
        timeout, limit = self._gateway.settings.body_timeout_s, self._gateway.settings.max_reading_mb << 20
        size = int(request.headers.get("content-length", "0"))
        if self._reading + size > limit:
            raise overloaded(f"bodies of {self._reading} bytes are being read: at most {limit} are taken at once")
        self._reading += size
        try:
            return await asyncio.wait_for(request.body(), timeout)
        except asyncio.TimeoutError:
            raise invalid(f"the body did not come within {timeout:g} s", "slow body") from None
        except ClientDisconnect:
            raise _gone() from None
        finally:
            self._reading -= size

    def _json_size(self, request: Request, body: bytes) -> int:
        """Bytes of the JSON part, which binary data may follow."""
        stated = request.headers.get(HEADER_LENGTH, str(len(body)))
        if not stated.isdecimal() or len(stated) > 18 or int(stated) > len(body):
            raise invalid(
                f"Inference-Header-Content-Length is {stated:.20}: the body has {len(body)} bytes", "json size"
            )
        limit = self._gateway.settings.max_json_mb << 20
        if int(stated) > limit:
            sentence = f"the JSON has {stated} bytes: at most {limit} are taken; send tensors as binary data"
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence, "json size")
        return int(stated)
