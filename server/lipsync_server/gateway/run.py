"""Starts the ports of a gateway, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar

import grpc
import grpc.aio
import uvicorn
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from lipsync_client.errors import LipsyncError
from lipsync_client.registry.settings import RegistrySettings
from lipsync_server.gateway import request_log, tracing
from lipsync_server.gateway.doors import GrpcDoor, HttpDoor, server_credentials
from lipsync_server.gateway.gateway import Gateway
from lipsync_server.gateway.grpc_front import inference_service, status_service
from lipsync_server.gateway.http_front import http_application
from lipsync_server.gateway.http_protocol import TimedProtocol
from lipsync_server.gateway.memory import give_back
from lipsync_server.gateway.monolithic import monolithic_service
from lipsync_server.gateway.monolithic_proto import SERVICE as MONOLITHIC
from lipsync_server.gateway.settings import GatewaySettings
from lipsync_server.gateway.upstream import SERVICE

__all__ = ["Addresses", "running"]

BACKLOG = 512  # connections that wait to be accepted
STOP_S = 5.0  # running requests get so long when the gateway stops
HEALTH_S = 0.2  # how often readiness is looked at for those who watch it
PORT_OPTIONS = {
    "grpc.so_reuseport": 0,  # or a second gateway would take half of the connections without a word
    "grpc.per_message_decompression": 0,  # a small message may unpack to gigabytes
    "grpc.http2.bdp_probe": 0,  # or it takes megabytes of a message that nobody reads yet
    "grpc.http2.lookahead_bytes": 65_536,
    "grpc.max_concurrent_streams": 256,  # of one connection
    "grpc.server_handshake_timeout_ms": 10_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.keepalive_time_ms": 60_000,  # a caller whose machine has gone keeps no request and no connection
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.max_connection_idle_ms": 600_000,
    "grpc.http2.min_recv_ping_interval_without_data_ms": 5_000,
}

MONOLITHIC_OPTIONS = {  # as its clients know it: the server pings every 10 s
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 3_000,
}
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


@dataclass(frozen=True)
class Addresses:
    """Where a gateway answers, as host:port."""

    grpc: str
    http: str
    monolithic: str


@asynccontextmanager
async def running(
    settings: GatewaySettings, limits: RegistrySettings | None = None
) -> AsyncIterator[tuple[Gateway, Addresses]]:
    """A gateway whose ports are open while the block runs. Raises LipsyncError where a port cannot be used."""
    gateway = Gateway(settings, limits)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(gateway.close)
        states = health.HealthServicer()
        server, grpc_address = _port(gateway, "grpc", SERVICE, PORT_OPTIONS)
        server.add_generic_rpc_handlers((inference_service(gateway), status_service(gateway)))
        second, monolithic_address = _port(gateway, "monolithic", MONOLITHIC, {**PORT_OPTIONS, **MONOLITHIC_OPTIONS})
        second.add_generic_rpc_handlers((monolithic_service(gateway),))
        gateway.observer.tracer = tracing.opened(settings.tracing)
        gateway.observer.log = request_log.opened(settings.request_log, int(grpc_address.rpartition(":")[2]))
        stack.callback(gateway.observer.close)
        if gateway.observer.log:
            files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            gateway.observer.log.event("started", version=version("lipsync-triton"), open_files_limit=files)
        await gateway.open()
        for work in (_tell_health(gateway, states), give_back()):
            stack.push_async_callback(_end, asyncio.create_task(work))
        for one in (server, second):
            health_pb2_grpc.add_HealthServicer_to_server(states, one)
            await one.start()
            stack.push_async_callback(one.stop, STOP_S)
        http_address = await stack.enter_async_context(_http_port(settings, gateway))
        stack.push_async_callback(states.enter_graceful_shutdown)
        yield gateway, Addresses(grpc_address, http_address, monolithic_address)


def _port(gateway: Gateway, name: str, service: str, options: dict[str, int]) -> tuple[grpc.aio.Server, str]:
    """A gRPC server and where it will answer."""
    settings = gateway.settings
    tls = server_credentials(settings.tls_cert, settings.tls_key) if settings.tls_cert and settings.tls_key else None
    port = getattr(settings, f"{name}_port")
    size = settings.max_message_size_mb << 20
    # No limit for open calls: a caller could reach it alone, with calls that never send their request. The door bounds
    # what they send.
    server = grpc.aio.server(
        options=[*options.items(), ("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", -1)],
        interceptors=[GrpcDoor(name, gateway.tokens, gateway.metrics, gateway.observer, gateway.reading)],
    )
    reflection.enable_server_reflection((service, reflection.SERVICE_NAME, HEALTH), server)
    try:
        socket.create_server((settings.bind, port), family=_family(settings)).close()  # gRPC would log its failure
        address = f"{settings.bind}:{port}"
        bound = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    except (OSError, RuntimeError):
        raise _port_taken(settings, name) from None
    return server, f"{settings.bind}:{bound}"


class _HttpServer(uvicorn.Server):
    """Leaves signals to the program that runs the gateway."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _http_port(settings: GatewaySettings, gateway: Gateway) -> AsyncIterator[str]:
    """The HTTP port, open while the block runs; where it answers."""

    class Protocol(TimedProtocol):
        header_timeout_s = settings.header_timeout_s
        max_per_caller = settings.max_connections_per_caller
        open_of: ClassVar[Counter[str]] = Counter()

    config = uvicorn.Config(
        HttpDoor(http_application(gateway), gateway.tokens, gateway.metrics, gateway.observer),
        http=Protocol,
        ws="none",
        lifespan="off",
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        log_config=None,
        log_level="critical",  # what strangers send is counted, not logged
        access_log=False,
        server_header=False,
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=int(STOP_S),
    )
    try:
        listening = socket.create_server((settings.bind, settings.http_port), family=_family(settings), backlog=BACKLOG)
    except OSError:
        raise _port_taken(settings, "http") from None
    server = _HttpServer(config)
    serving = asyncio.create_task(server.serve([listening]))
    try:
        yield f"{settings.bind}:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


def _family(settings: GatewaySettings) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in settings.bind else socket.AF_INET


def _port_taken(settings: GatewaySettings, name: str) -> LipsyncError:
    return LipsyncError(
        f"Port {getattr(settings, f'{name}_port')} of {settings.bind} cannot be used: stop what holds it, or choose "
        f"another with --{name}-port."
    )


async def _tell_health(gateway: Gateway, states: health.HealthServicer) -> None:
    """Keep grpc.health.v1 true."""
    told: bool | None = None
    while True:
        if gateway.ready != told:
            told = gateway.ready
            status = health_pb2.HealthCheckResponse
            state = status.SERVING if told else status.NOT_SERVING
            for service in ("", SERVICE, MONOLITHIC):
                await states.set(service, state)
        await asyncio.sleep(HEALTH_S)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
