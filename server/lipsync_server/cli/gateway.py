"""`lipsync gateway`: the public ports before one or several Tritons."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated, Any

import typer

__all__ = ["gateway"]


def gateway(
    upstream: Annotated[
        list[str] | None,
        typer.Option("--upstream", help="host:port of a Triton's gRPC endpoint; repeat it for more."),
    ] = None,
    bind: Annotated[str, typer.Option(help="Address to answer on.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="KServe v2 over gRPC; 0: any free one.")] = 8001,
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="KServe v2 over HTTP, health, metrics.")] = 8000,
    monolithic_port: Annotated[int, typer.Option(min=0, max=65535, help="monolithic.MonolithicService.")] = 50053,
) -> None:
    """Stand between callers and one or several Tritons: check every request, send it where it is answered soonest."""
    from lipsync_server.gateway.settings import GatewaySettings

    settings = GatewaySettings.from_dict(
        {
            "upstreams": tuple(upstream or ("127.0.0.1:8001",)),
            "bind": bind,
            "grpc_port": grpc_port,
            "http_port": http_port,
            "monolithic_port": monolithic_port,
        }
    )
    asyncio.run(_serve(settings))


async def _serve(settings: Any) -> None:
    from lipsync_server.gateway.run import running

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(settings) as (_, addresses):
        typer.echo(
            f"Answering at grpc {addresses.grpc}, http http://{addresses.http}, monolithic {addresses.monolithic} "
            f"for {', '.join(settings.upstreams)} (Ctrl-C stops)"
        )
        await stop.wait()
