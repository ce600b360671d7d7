"""What the gateway does while the only server behind it is replaced."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from test_client_access import certificate
from test_gateway_upstreams import ASKED, SECONDS, STATUS, Server, failing, frame, refused, run, served, until

from lipsync_server.gateway.gateway import Gateway
from lipsync_server.gateway.settings import GatewaySettings
from lipsync_server.serving.gateway_process import GatewayProcess
from lipsync_server.serving.network import choose_ports
from lipsync_server.serving.server_settings import Ports, ServerConfig


@pytest.mark.parametrize("code", [STATUS.INTERNAL, STATUS.UNKNOWN])
def test_a_request_that_met_a_dead_stage_is_held_until_it_is_replaced(code) -> None:
    async def main() -> None:
        async with served(1, probe_interval_s=100, patience_s=SECONDS) as (upstreams, (server,)):
            server.broken, server.behaviour = (
                "Stub process is not healthy",
                failing(code, "Stub process is not healthy"),
            )
            call = asyncio.create_task(upstreams.send("ModelInfer", ASKED))
            await until(lambda: not upstreams.ready)
            assert not call.done()
            server.broken, server.behaviour = "", None
            assert await call == frame()

    run(main)


def test_a_failure_of_one_request_alone_is_told_at_once() -> None:
    async def main() -> None:
        async with served(1, probe_interval_s=100, patience_s=SECONDS) as (upstreams, (server,)):
            server.behaviour = failing(STATUS.INTERNAL, "this one")
            assert (await refused(upstreams)).sentence == "this one"
            assert (server.requests, server.probes) == (1, 2)
            assert upstreams.ready

    run(main)


def test_the_end_of_a_connection_is_noticed_without_a_request() -> None:
    async def main() -> None:
        async with served(1, probe_interval_s=100) as (upstreams, (server,)):
            await server.stop()
            await until(lambda: not upstreams.ready)

    run(main)


def test_a_caller_is_told_before_it_gives_up() -> None:
    """UNAVAILABLE, after which clients come back for longer than after a time-out."""

    async def main() -> None:
        async with served(1, probe_interval_s=100, patience_s=SECONDS) as (upstreams, (server,)):
            await server.stop()
            await until(lambda: not upstreams.ready)
            clock = asyncio.get_running_loop().time
            deadline = clock() + 2
            with pytest.raises(Exception, match="no server behind this gateway is ready"):
                await upstreams.send("ModelInfer", ASKED, deadline)
            assert clock() < deadline, "it would take a starting server for a slow one"

    run(main)


def test_a_server_that_answers_nothing_hangs_unless_it_loads(monkeypatch) -> None:
    async def never(context: Any) -> None:
        await asyncio.sleep(SECONDS)

    async def main() -> None:
        server = Server()
        times = {"probe_interval_s": 0.05, "probe_timeout_s": 0.1}
        gateway = Gateway(GatewaySettings((await server.start(),), **times))
        await gateway.open()
        try:
            await until(lambda: gateway.ready)
            server.broken = "a stage is dead, and says so"
            await until(lambda: not gateway.ready)
            for _ in range(10):
                await asyncio.sleep(0.05)
                assert not gateway.hung
            server.broken, server.probing = "", never
            await until(lambda: gateway.hung)
            with monkeypatch.context() as loading:
                loading.setattr(gateway.avatars, "last_load", lambda upstream: asyncio.get_running_loop().time())
                assert not gateway.hung
            server.probing = None
            await until(lambda: gateway.ready)
            assert not gateway.hung
        finally:
            await gateway.close()
            await server.stop()

    run(main)


def test_the_inference_key_goes_with_a_request(monkeypatch) -> None:
    monkeypatch.setenv("LIPSYNC_INFERENCE_KEY", "secret")
    seen: list[dict[str, Any]] = []

    async def keep(context: Any) -> None:
        seen.append(dict(context.invocation_metadata()))

    async def main() -> None:
        async with served(1) as (upstreams, (server,)):
            server.behaviour = keep
            await upstreams.send("ModelInfer", ASKED)

    run(main)
    assert [one["triton-grpc-protocol-lipsync-inference"] for one in seen] == ["secret"]


def test_a_server_asks_its_gateway_through_tls_too(tmp_path: Path) -> None:
    file, key = certificate(tmp_path, "DNS:gateway.example")
    config = ServerConfig(gateway={"tls_cert": str(file), "tls_key": str(key)})
    ports = Ports(**choose_ports("127.0.0.1", {"http": 0, "grpc": 0, "monolithic": 0}))
    process = GatewayProcess(config, ports, "127.0.0.1:9", "127.0.0.1:9", key="k", inference_key="i")
    try:
        for _ in range(SECONDS * 20):
            if "no server is ready" in (trouble := process.trouble() or ""):
                break
            time.sleep(0.05)
        assert "127.0.0.1:9" in trouble
        assert process.url.startswith("https://")
    finally:
        process.stop()
