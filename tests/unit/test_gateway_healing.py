"""What the gateway does while the only server behind it is replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from test_client_access import certificate
from test_gateway_upstreams import ASKED, SECONDS, STATUS, Server, failing, frame, refused, run, served, until

from lipsync_client.control.states import AvatarOverview, AvatarState
from lipsync_client.errors import Overloaded, ServerUnavailable
from lipsync_client.registry.settings import RegistrySettings
from lipsync_server.gateway.avatars import Avatars
from lipsync_server.gateway.gateway import Gateway
from lipsync_server.gateway.refusal import Refused
from lipsync_server.gateway.settings import GatewaySettings
from lipsync_server.gateway.upstream import probe_request
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


def test_an_avatar_whose_own_stage_hangs_is_noticed_while_others_work() -> None:
    async def unanswered(context: Any) -> None:
        if not works.is_set():
            await context.abort(STATUS.INTERNAL, "Stub process 'anna_lipsync_0_0' is not healthy.")

    async def main() -> None:
        async with served(1, probe_interval_s=0.05, patience_s=2) as (upstreams, (server,)):
            (upstream,) = upstreams.all
            server.asked_by = anna
            server.behaviour = unanswered
            with pytest.raises(Refused) as caught:
                await upstreams.send("ModelInfer", anna, talking="anna")
            assert caught.value.code is STATUS.UNAVAILABLE, "or callers would not come back"
            before = server.requests
            held = asyncio.create_task(upstreams.send("ModelInfer", anna, talking="anna"))
            await until(lambda: server.requests > before)
            assert upstreams.ready and upstreams.hung_since(upstream) is not None
            works.set()
            assert await held == frame()
            assert upstreams.hung_since(upstream) is None
            server.behaviour = failing(STATUS.INTERNAL, "another trouble")
            with pytest.raises(Refused):
                await upstreams.send("ModelInfer", anna, talking="anna")
            assert upstreams.hung_since(upstream) is None

    anna, works = probe_request("anna"), asyncio.Event()
    run(main)


def test_one_that_waited_in_vain_makes_an_avatar_suspect() -> None:
    async def never(context: Any) -> None:
        await asyncio.sleep(SECONDS)

    async def main() -> None:
        async with served(1, probe_interval_s=0.05, probe_timeout_s=0.2) as (upstreams, (server,)):
            (upstream,) = upstreams.all
            server.asked_by, server.behaviour = anna, never
            call = asyncio.create_task(upstreams.send("ModelInfer", anna, talking="anna"))
            await until(lambda: server.requests == 1)
            await asyncio.sleep(0.2)
            call.cancel()
            await until(lambda: upstreams.hung_since(upstream) is not None)
            assert upstreams.ready

    anna = probe_request("anna")
    run(main)


def test_an_avatar_is_loaded_though_the_registry_is_not_connected_again_yet() -> None:
    class Restarted:
        url = "here"
        calls = 0

        @asynccontextmanager
        async def lease(self, avatar: str) -> AsyncIterator[None]:
            self.calls += 1
            if self.calls == 3:
                raise Overloaded("all are in use")
            if self.calls % 2:
                raise ServerUnavailable("not yet")
            yield

        async def overview(self) -> list[AvatarOverview]:
            return [AvatarOverview(AvatarState("anna", False, ""))]

    async def main() -> None:
        async with served(1) as (upstreams, _):
            avatars = Avatars(upstreams, RegistrySettings(), GatewaySettings(("a:1",)), asyncio.get_running_loop().time)
            avatars._registries = {upstreams.all[0].address: registry}  # type: ignore[dict-item]
            assert await avatars.ensure("anna")
            registry.calls = 2
            with pytest.raises(Overloaded):
                await avatars.ensure("anna")
            await avatars.close()

    registry = Restarted()
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
