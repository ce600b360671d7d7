"""Starts the ports of a gateway, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from lipsync_client.errors import LipsyncError
from lipsync_server.gateway.gateway import Gateway
from lipsync_server.gateway.grpc_front import inference_service
from lipsync_server.gateway.settings import GatewaySettings
from lipsync_server.gateway.upstream import SERVICE

__all__ = ["Addresses", "running"]

STOP_S = 5.0  # running requests get so long when the gateway stops
HEALTH_S = 0.2  # how often readiness is looked at for those who watch it
PORT_OPTIONS = [
    ("grpc.so_reuseport", 0),  # or a second gateway would take half of the connections without a word
    ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a small message may unpack to gigabytes
    ("grpc.max_concurrent_streams", 256),  # of one connection
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
]


@dataclass(frozen=True)
class Addresses:
    """Where a gateway answers, as host:port."""

    grpc: str
    http: str
    monolithic: str


@asynccontextmanager
async def running(settings: GatewaySettings) -> AsyncIterator[tuple[Gateway, Addresses]]:
    """A gateway whose ports are open while the block runs. Raises LipsyncError where a port cannot be used."""
    gateway = Gateway(settings)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(gateway.close)
        server, grpc_address = _port(settings, settings.grpc_port, "grpc", SERVICE)
        server.add_generic_rpc_handlers((inference_service(gateway),))
        states = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(states, server)
        gateway.open()
        watching = asyncio.create_task(_tell_health(gateway, states))
        stack.push_async_callback(_end, watching)
        await server.start()
        stack.push_async_callback(server.stop, STOP_S)
        yield gateway, Addresses(grpc_address, "", "")


def _port(settings: GatewaySettings, port: int, name: str, service: str) -> tuple[grpc.aio.Server, str]:
    """A gRPC server and where it will answer."""
    size = settings.max_message_mb << 20
    options = [*PORT_OPTIONS, ("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=2 * settings.max_open_requests)
    reflection.enable_server_reflection((service, reflection.SERVICE_NAME, health_pb2.DESCRIPTOR.package), server)
    try:
        bound = server.add_insecure_port(f"{settings.bind}:{port}")
    except RuntimeError:
        raise LipsyncError(f"Port {port} ({name}) of {settings.bind} cannot be used: is it in use?") from None
    return server, f"{settings.bind}:{bound}"


async def _tell_health(gateway: Gateway, states: health.HealthServicer) -> None:
    """Keep grpc.health.v1 true."""
    told: bool | None = None
    while True:
        if gateway.ready != told:
            told = gateway.ready
            status = health_pb2.HealthCheckResponse
            state = status.SERVING if told else status.NOT_SERVING
            for service in ("", SERVICE):
                await states.set(service, state)
        await asyncio.sleep(HEALTH_S)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
