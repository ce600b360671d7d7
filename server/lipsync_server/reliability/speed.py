"""Part `speed`: throughput and latency through the gateway and without it, in turn, and beside idle connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from lipsync_client import AsyncClient
from lipsync_client.console import note
from lipsync_server import home
from lipsync_server.serving import Ports, ServerConfig, ServingError, TritonServer
from lipsync_server.serving.child import Child

__all__ = ["speed"]

CALLERS, FRAMES = 4, 25  # of the throughput
THROUGHPUT_S, LATENCY_S = 8.0, 4.0
WARM_S = 3.0
IDLE = 500
TIMEOUT_S = 60.0
LINE = re.compile(r"Answering at grpc (\S+), http http://(\S+), monolithic (\S+) for ")
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]  # else channels share one


@dataclass(frozen=True)
class Addresses:
    """Where a gateway answers: host:port of its gRPC, HTTP and monolithic ports."""

    grpc: str
    http: str
    monolithic: str


async def speed(repository: Path, rounds: int) -> dict[str, Any]:
    """Alternate between Triton, its gateway, and that gateway with idle connections. Nothing else should run.

    Returns:
        by contender: frames a second and the median milliseconds of a request for one frame, of each round; and how
        many idle connections were open at the end of each round.
    """
    found: dict[str, Any] = {name: {"frames_s": [], "p50_ms": []} for name in ("direct", "gateway", "idle")}
    found["still_open"] = []
    config = ServerConfig(ports=Ports(0, 0, 0), gateway=False)
    with TritonServer(repository, config) as triton, _gateway(triton.grpc_url) as gateway:
        contenders = {"direct": triton.grpc_url, "gateway": gateway.grpc, "idle": gateway.grpc}
        for url in (triton.grpc_url, gateway.grpc):
            await _load(url, 2, FRAMES, WARM_S)
        for number in range(rounds):
            for name, url in contenders.items():
                async with contextlib.AsyncExitStack() as stack:
                    if name == "idle":
                        idle = await stack.enter_async_context(_idle_connections(gateway))
                    frames_s, _ = await _load(url, CALLERS, FRAMES, THROUGHPUT_S)
                    _, p50_ms = await _load(url, 1, 1, LATENCY_S)
                    found[name]["frames_s"].append(frames_s)
                    found[name]["p50_ms"].append(p50_ms)
                    if name == "idle":
                        found["still_open"].append(idle())
            note(f"{time.strftime('%H:%M:%S')} speed: round {number + 1} of {rounds}")
    return found


async def _load(url: str, callers: int, frames: int, seconds: float) -> tuple[float, float]:
    """Frames a second, and the median milliseconds of a request, of callers that ask again and again."""
    speech = np.resize(home.read_sample(), 640 * frames + 7_200)
    times: list[float] = []

    async def ask(client: AsyncClient, until: float) -> None:
        while (began := time.perf_counter()) < until:
            await client.infer(speech, frame_count=frames)
            times.append(time.perf_counter() - began)

    async with AsyncClient(url, timeout=TIMEOUT_S) as client:
        began = time.perf_counter()
        await asyncio.gather(*(ask(client, began + seconds) for _ in range(callers)))
        elapsed = time.perf_counter() - began
    return len(times) * frames / elapsed, statistics.median(times) * 1000


@contextlib.contextmanager
def _gateway(upstream: str) -> Iterator[Addresses]:
    """A gateway as `lipsync serve` starts it, before a Triton that also answers others."""
    command = [sys.executable, "-m", "lipsync_client.cli.main", "gateway", "--upstream", upstream]
    command += ["--grpc-port", "0", "--http-port", "0", "--monolithic-port", "0"]
    found: list[Addresses] = []
    answering = threading.Event()

    def take(line: str) -> None:
        if match := LINE.match(line):
            found.append(Addresses(*match.groups()))
            answering.set()

    child = Child(command, os.environ, take)
    try:
        if not answering.wait(TIMEOUT_S):
            raise ServingError("The gateway did not start.")
        yield found[0]
    finally:
        child.signal(15)
        if not child.wait(TIMEOUT_S):
            child.signal(9)


@contextlib.asynccontextmanager
async def _idle_connections(gateway: Addresses) -> AsyncIterator[Any]:
    """500 connections to each port, over which nothing is asked; gives a function that counts those still open.

    Those over gRPC are real ones, with HTTP/2. The gateway closes those over HTTP when no headers have come in time.
    """
    channels = [grpc.aio.insecure_channel(gateway.grpc, options=OWN_CONNECTION) for _ in range(IDLE)]
    sockets: list[socket.socket] = []
    try:
        await asyncio.wait_for(asyncio.gather(*(channel.channel_ready() for channel in channels)), TIMEOUT_S)
        for address in (gateway.http, gateway.monolithic):
            host, _, port = address.partition(":")
            sockets += [socket.create_connection((host, int(port)), timeout=TIMEOUT_S) for _ in range(IDLE)]
        yield lambda: {
            "grpc": sum(channel.get_state() is grpc.ChannelConnectivity.READY for channel in channels),
            "http": sum(map(_is_open, sockets[:IDLE])),
            "monolithic": sum(map(_is_open, sockets[IDLE:])),
        }
    finally:
        for connection in sockets:
            connection.close()
        await asyncio.gather(*(channel.close() for channel in channels))


def _is_open(connection: socket.socket) -> bool:
    """Whether the other side has not closed it."""
    connection.setblocking(False)
    try:
        return bool(connection.recv(1000, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False
