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
from lipsync_server.gateway.monolithic import monolithic_service
from lipsync_server.gateway.monolithic_proto import SERVICE as MONOLITHIC
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

MONOLITHIC_OPTIONS = [  # as its clients know it: the server pings every 10 s
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
]
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


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
        states = health.HealthServicer()
        server, grpc_address = _port(settings, "grpc", SERVICE, PORT_OPTIONS)
        server.add_generic_rpc_handlers((inference_service(gateway),))
        second, monolithic_address = _port(settings, "monolithic", MONOLITHIC, [*PORT_OPTIONS, *MONOLITHIC_OPTIONS])
        second.add_generic_rpc_handlers((monolithic_service(gateway),))
        await gateway.open()
        watching = asyncio.create_task(_tell_health(gateway, states))
        stack.push_async_callback(_end, watching)
        for one in (server, second):
            health_pb2_grpc.add_HealthServicer_to_server(states, one)
            await one.start()
            stack.push_async_callback(one.stop, STOP_S)
        yield gateway, Addresses(grpc_address, "", monolithic_address)


def _port(
    settings: GatewaySettings, name: str, service: str, options: list[tuple[str, int]]
) -> tuple[grpc.aio.Server, str]:
    """A gRPC server and where it will answer."""
    port = getattr(settings, f"{name}_port")
    size = settings.max_message_mb << 20
    server = grpc.aio.server(
        options=[*options, ("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", -1)],
        maximum_concurrent_rpcs=2 * settings.max_open_requests,
    )
    reflection.enable_server_reflection((service, reflection.SERVICE_NAME, HEALTH), server)
    try:
        bound = server.add_insecure_port(f"{settings.bind}:{port}")
    except RuntimeError:
        raise LipsyncError(
            f"Port {port} of {settings.bind} cannot be used: stop what holds it, or choose another with --{name}-port."
        ) from None
    return server, f"{settings.bind}:{bound}"


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
