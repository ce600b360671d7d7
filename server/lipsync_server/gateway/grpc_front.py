"""KServe v2 over gRPC: `inference.GRPCInferenceService` for the public models."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.protobuf.wrappers_pb2 import StringValue
from tritonclient.grpc import service_pb2 as pb

from lipsync_client.control.control import KEY_HEADER, STATUS_METHOD
from lipsync_server.gateway import checks, control
from lipsync_server.gateway.callers import host_of
from lipsync_server.gateway.gateway import Call, Gateway
from lipsync_server.gateway.messages import encoded, streamed
from lipsync_server.gateway.observer import observed
from lipsync_server.gateway.refusal import Refused, invalid
from lipsync_server.gateway.status import status_of
from lipsync_server.gateway.tokens import caller_of
from lipsync_server.gateway.upstream import SERVICE

__all__ = ["inference_service", "status_service"]

CLOSED = ("shared_memory", "trace", "logging", "classification", "sequence", "repository", "schedule_policy")
SMALL = 4096  # bytes; requests that only name a model are smaller
IN_STREAM = 16  # requests of one stream that run at once

Context = Any
Handler = Callable[[bytes, Context], Awaitable[bytes]]


def inference_service(gateway: Gateway) -> grpc.GenericRpcHandler:
    """The service's methods, for bytes: requests are parsed where they are checked, answers never."""
    front = _Front(gateway)
    unary: dict[str, Handler] = {
        "ServerLive": front.live,
        "ServerReady": front.server_ready,
        "ModelReady": front.model_ready,
        "ServerMetadata": front.metadata,
        "ModelInfer": front.infer,
        "ModelMetadata": front.about_model(pb.ModelMetadataRequest, "ModelMetadata"),
        "ModelConfig": front.about_model(pb.ModelConfigRequest, "ModelConfig"),
        "ModelStatistics": front.about_model(pb.ModelStatisticsRequest, "ModelStatistics"),
        **{method: front.control(method) for method in control.METHODS},
    }
    handlers = {name: grpc.unary_unary_rpc_method_handler(_answering(handle)) for name, handle in unary.items()}
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(front.stream)
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


def status_service(gateway: Gateway) -> grpc.GenericRpcHandler:
    """The gateway's own service. Its answer is a `google.protobuf.StringValue` that holds JSON."""

    async def status(data: bytes, context: Context) -> bytes:
        return encoded(StringValue(value=json.dumps(await status_of(gateway))))

    service, _, method = STATUS_METHOD.strip("/").partition("/")
    return grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(status)})


def call_of(context: Context, front: str) -> Call:
    """How a gRPC request came."""
    remaining = context.time_remaining()
    deadline = math.inf if remaining is None else asyncio.get_running_loop().time() + remaining
    return Call(front, caller_of(host_of(context.peer())), deadline)


def _answering(handle: Handler) -> Handler:
    """A refusal as gRPC's status."""

    async def answer(data: bytes, context: Context) -> bytes:
        try:
            return await handle(data, context)
        except Refused as refused:
            code, sentence = refused.code, refused.sentence
        finally:
            del data  # see GrpcDoor
        return await context.abort(code, sentence)  # type: ignore[no-any-return]

    return answer


class _Front:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def live(self, data: bytes, context: Context) -> bytes:
        return encoded(pb.ServerLiveResponse(live=True))

    async def server_ready(self, data: bytes, context: Context) -> bytes:
        return encoded(pb.ServerReadyResponse(ready=self._gateway.ready))

    async def model_ready(self, data: bytes, context: Context) -> bytes:
        request = _small(pb.ModelReadyRequest, data)
        checks.check_name(request.name, request.version)
        if not self._gateway.ready:
            return encoded(pb.ModelReadyResponse(ready=False))
        return await self._gateway.upstreams.send("ModelReady", data, call_of(context, "grpc").deadline)

    async def metadata(self, data: bytes, context: Context) -> bytes:
        answer = await self._gateway.upstreams.send("ServerMetadata", b"", call_of(context, "grpc").deadline)
        return encoded(open_extensions(pb.ServerMetadataResponse.FromString(answer)))

    async def infer(self, data: bytes, context: Context) -> bytes:
        return await self._gateway.infer(data, call_of(context, "grpc"))

    def about_model(self, kind: type[Message], method: str) -> Handler:
        async def ask(data: bytes, context: Context) -> bytes:
            request: Any = _small(kind, data)
            observed(model=request.name)
            if request.name or method != "ModelStatistics":  # statistics: no name is every model
                checks.check_name(request.name, request.version)
            return await self._gateway.about(method, request.name, data, call_of(context, "grpc").deadline)

        return ask

    def control(self, method: str) -> Handler:
        async def pass_on(data: bytes, context: Context) -> bytes:
            key = [(name, value) for name, value in context.invocation_metadata() or () if name == KEY_HEADER]
            deadline = call_of(context, "grpc").deadline
            return await control.controlled(self._gateway, method, data, str(key[0][1]) if key else "", deadline)

        return pass_on

    async def stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answers in the order of their requests. A failure is an answer too, and the stream goes on."""
        call = call_of(context, "grpc")
        try:
            with self._gateway.streams.admitted(call.caller):
                async for answer in self._answers(requests, call):
                    yield answer
        except Refused as refused:
            await context.abort(refused.code, refused.sentence)

    async def _answers(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        running: asyncio.Queue[asyncio.Future[bytes] | None] = asyncio.Queue(IN_STREAM)
        tasks: set[asyncio.Task[Any]] = set()

        async def read() -> None:
            try:
                async for data in requests:
                    task = asyncio.create_task(self._one_of_stream(data, call))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    await running.put(task)
            except Exception as error:  # told after the answers before it
                last: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
                last.set_exception(error)
                await running.put(last)
            await running.put(None)

        reading = asyncio.create_task(read())
        try:
            while (task := await running.get()) is not None:
                yield await task
        finally:
            reading.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(reading, *tasks, return_exceptions=True)

    async def _one_of_stream(self, data: bytes, call: Call) -> bytes:
        with self._gateway.observer.request_of_stream(len(data)) as record:
            try:
                with self._gateway.reading.held(len(data)):
                    answer = streamed(await self._gateway.infer(data, call))
            except Refused as refused:
                record.code = refused.code.name
                answer = encoded(pb.ModelStreamInferResponse(error_message=refused.sentence))
            record.bytes_out = len(answer)
            return answer


def open_extensions(metadata: pb.ServerMetadataResponse) -> pb.ServerMetadataResponse:
    """What a server says of itself, without what the gateway keeps closed."""
    kept = [name for name in metadata.extensions if not any(closed in name for closed in CLOSED)]
    return pb.ServerMetadataResponse(name=metadata.name, version=metadata.version, extensions=kept)


def _small(kind: type[Message], data: bytes) -> Any:
    """A request that only names a model. Raises Refused."""
    if len(data) > SMALL:
        raise invalid(f"the request has {len(data)} bytes: at most {SMALL} are allowed here", "size")
    try:
        return kind.FromString(data)
    except DecodeError:
        raise invalid(f"the request is no {kind.DESCRIPTOR.name}: its bytes cannot be parsed", "unparsable") from None
