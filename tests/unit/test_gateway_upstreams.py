"""Which upstream gets a request, and what happens when it fails: with servers in this process that fail on demand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse
from tritonclient.utils import serialize_byte_tensor

from lipsync_mel import refusals
from lipsync_server.gateway.messages import encoded
from lipsync_server.gateway.metrics import Metrics
from lipsync_server.gateway.refusal import Refused
from lipsync_server.gateway.settings import GatewaySettings
from lipsync_server.gateway.upstream import SERVICE
from lipsync_server.gateway.upstreams import Upstreams

SECONDS = 30
ASKED = encoded(ModelInferRequest(model_name="anna"))
STATUS = grpc.StatusCode
Behaviour = Callable[[Any], Awaitable[None]]


def frame() -> bytes:
    made = ModelInferResponse(model_name="anna")
    made.outputs.add(name="JPEG", datatype="BYTES", shape=[1])
    made.raw_output_contents.append(serialize_byte_tensor(np.array([b"jpeg"], object)).item())
    return encoded(made)


class Server:
    """A stand-in for a Triton. Probes get a frame unless it is `broken`; other requests what `behaviour` does first."""

    def __init__(self) -> None:
        self.requests = self.probes = 0
        self.broken = ""
        self.asked_by = ASKED  # the requests that are no probes
        self.behaviour: Behaviour | None = None
        self.probing: Behaviour | None = None
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer)}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def start(self, address: str = "127.0.0.1:0") -> str:
        port = self._server.add_insecure_port(address)
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        await self._server.stop(None)

    async def _infer(self, data: bytes, context: Any) -> bytes:
        if data != self.asked_by:
            self.probes += 1
            if self.probing:
                await self.probing(context)
            if self.broken:
                await context.abort(STATUS.INTERNAL, self.broken)
            return frame()
        self.requests += 1
        if self.behaviour:
            await self.behaviour(context)
        return frame()


def failing(code: grpc.StatusCode, sentence: str = "no") -> Behaviour:
    async def fail(context: Any) -> None:
        await context.abort(code, sentence)

    return fail


@asynccontextmanager
async def served(count: int, **settings: Any) -> AsyncIterator[tuple[Upstreams, list[Server]]]:
    """Upstreams that have been probed, and their servers."""
    servers = [Server() for _ in range(count)]
    addresses = tuple([await server.start() for server in servers])
    upstreams = Upstreams(GatewaySettings(addresses, **settings), Metrics(), asyncio.get_running_loop().time)
    upstreams.open()
    try:
        await until(lambda: all(upstream.ready for upstream in upstreams.all))
        yield upstreams, servers
    finally:
        await upstreams.close()
        for server in servers:
            await server.stop()


async def until(condition: Callable[[], bool]) -> None:
    async def look() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), SECONDS)


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 2 * SECONDS))


async def refused(upstreams: Upstreams) -> Refused:
    with pytest.raises(Refused) as caught:
        await upstreams.send("ModelInfer", ASKED)
    return caught.value


@pytest.mark.parametrize("code", [STATUS.INTERNAL, STATUS.UNAVAILABLE, STATUS.UNKNOWN, STATUS.NOT_FOUND])
def test_a_failure_that_may_be_this_servers_goes_to_the_next(code) -> None:
    async def main() -> None:
        async with served(2) as (upstreams, servers):
            servers[0].behaviour = failing(code)
            assert await upstreams.send("ModelInfer", ASKED) == frame()
            assert [server.requests for server in servers] == [1, 1]

    run(main)


@pytest.mark.parametrize("code", [STATUS.INVALID_ARGUMENT, STATUS.PERMISSION_DENIED, STATUS.RESOURCE_EXHAUSTED])
def test_a_failure_of_the_request_itself_is_not_sent_again(code) -> None:
    async def main() -> None:
        async with served(2) as (upstreams, servers):
            servers[0].behaviour = failing(code, "AUDIO is empty")
            error = await refused(upstreams)
            assert (error.code, error.sentence) == (code, "AUDIO is empty")
            assert [server.requests for server in servers] == [1, 0]

    run(main)


def test_when_all_are_overloaded_their_word_is_passed_on() -> None:
    async def main() -> None:
        async with served(2) as (upstreams, servers):
            sentence = refusals.coded(refusals.OVERLOADED, "64 requests are in flight")
            for server in servers:
                server.behaviour = failing(STATUS.UNAVAILABLE, sentence)
            error = await refused(upstreams)
            assert (error.code, error.sentence) == (STATUS.UNAVAILABLE, sentence)
            assert [server.requests for server in servers] == [1, 1]
            assert upstreams.ready  # they are there
            await asyncio.sleep(0.05)
            assert [server.probes for server in servers] == [1, 1]  # and get no further work

    run(main)


def test_a_lost_connection_is_no_refusal_so_the_request_waits_for_another_server() -> None:
    async def main() -> None:
        async with served(1, probe_interval_s=100, patience_s=SECONDS) as (upstreams, servers):
            address = upstreams.all[0].address
            await servers[0].stop()
            call = asyncio.create_task(upstreams.send("ModelInfer", ASKED))
            await until(lambda: not upstreams.ready)
            servers.append(Server())
            await servers[1].start(address)
            assert await call == frame()

    run(main)


def test_a_request_that_ends_servers_is_refused_before_it_has_ended_all() -> None:
    async def main() -> None:
        async with served(4) as (upstreams, servers):

            def ends(server: Server) -> Behaviour:
                async def end(context: Any) -> None:
                    stopping.append(asyncio.create_task(server.stop()))
                    await asyncio.sleep(SECONDS)

                return end

            stopping: list[asyncio.Task[None]] = []
            for server in servers:
                server.behaviour = ends(server)
            for _ in range(2):  # also when its caller sends it again
                told = await refused(upstreams)
                assert (told.code, told.reason) == (STATUS.INVALID_ARGUMENT, "ended the server")
                assert sum(server.requests for server in servers) == 2
            assert upstreams.ready
            await asyncio.gather(*stopping)

    run(main)


def test_the_least_loaded_is_asked_first() -> None:
    async def main() -> None:
        async with served(2) as (upstreams, servers):
            free = asyncio.Event()

            async def wait(context: Any) -> None:
                await free.wait()

            for server in servers:
                server.behaviour = wait
            calls = [asyncio.create_task(upstreams.send("ModelInfer", ASKED)) for _ in range(6)]
            await until(lambda: sum(server.requests for server in servers) == 6)
            assert [server.requests for server in servers] == [3, 3]
            free.set()
            assert await asyncio.gather(*calls) == [frame()] * 6
            assert [upstream.open for upstream in upstreams.all] == [0, 0]

    run(main)


def test_requests_of_one_that_is_given_up_go_to_the_next() -> None:
    async def main() -> None:
        async with served(2) as (upstreams, servers):

            async def hang(context: Any) -> None:
                await asyncio.sleep(SECONDS)

            servers[0].behaviour = hang
            hanging = upstreams.all[0]
            call = asyncio.create_task(upstreams.send("ModelInfer", ASKED))
            await until(lambda: servers[0].requests == 1)
            hanging.failed("it does not answer", give_up=True)
            assert await call == frame()
            assert servers[1].requests == 1

    run(main)


def test_the_only_server_is_given_time_when_its_probe_gets_no_answer() -> None:
    async def main() -> None:
        async with served(1, probe_interval_s=0.05, probe_timeout_s=0.05) as (upstreams, servers):
            free = asyncio.Event()

            async def wait(context: Any) -> None:
                await free.wait()

            servers[0].behaviour = servers[0].probing = wait
            call = asyncio.create_task(upstreams.send("ModelInfer", ASKED, talking="anna"))
            await until(lambda: not upstreams.ready)
            free.set()
            assert await call == frame()
            assert servers[0].requests == 1
            assert upstreams.all[0].ready

    run(main)


def test_ready_means_that_the_last_probe_made_a_frame() -> None:
    async def main() -> None:
        async with served(1, probe_interval_s=0.05, patience_s=0.1) as (upstreams, servers):
            assert upstreams.ready
            servers[0].broken = "Stub process is not healthy"
            await until(lambda: not upstreams.ready)
            assert "Stub process is not healthy" in upstreams.trouble()
            error = await refused(upstreams)
            assert error.code is STATUS.UNAVAILABLE and "Stub process" in error.sentence
            assert servers[0].requests == 0
            servers[0].broken = ""
            await until(lambda: upstreams.ready)
            assert await upstreams.send("ModelInfer", ASKED) == frame()

    run(main)


def test_frames_of_callers_stand_for_probes_but_plain_footage_does_not() -> None:
    async def main() -> None:
        async with served(1, probe_interval_s=100) as (upstreams, servers):
            one = upstreams.all[0]
            one.last_frame -= 1000
            assert not upstreams.ready
            assert await upstreams.send("ModelInfer", ASKED) == frame()
            assert not upstreams.ready
            assert await upstreams.send("ModelInfer", ASKED, talking="anna") == frame()
            assert upstreams.ready
            assert servers[0].probes == 1

    run(main)


def test_a_request_is_held_until_one_is_ready_again() -> None:
    async def main() -> None:
        async with served(1, probe_interval_s=0.05, patience_s=SECONDS) as (upstreams, servers):
            servers[0].broken = "down"
            await until(lambda: not upstreams.ready)
            call = asyncio.create_task(upstreams.send("ModelInfer", ASKED))
            await asyncio.sleep(0)
            assert not call.done()
            servers[0].broken = ""
            assert await call == frame()

    run(main)


def test_a_callers_own_deadline_ends_the_holding() -> None:
    async def main() -> None:
        async with served(1, probe_interval_s=0.05, patience_s=1000) as (upstreams, servers):
            servers[0].broken = "down"
            await until(lambda: not upstreams.ready)
            with pytest.raises(Refused, match="no server behind this gateway is ready"):
                await upstreams.send("ModelInfer", ASKED, asyncio.get_running_loop().time())

    run(main)


def test_a_cancelled_caller_cancels_the_call_but_not_as_it_begins() -> None:
    async def main() -> None:
        async with served(1) as (upstreams, servers):
            cancelled = asyncio.Event()

            async def wait(context: Any) -> None:
                try:
                    await asyncio.sleep(SECONDS)
                except asyncio.CancelledError:
                    cancelled.set()
                    raise

            servers[0].behaviour = wait
            call = asyncio.create_task(upstreams.send("ModelInfer", ASKED))
            await asyncio.sleep(0)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            await asyncio.wait_for(cancelled.wait(), SECONDS)
            assert servers[0].requests == 1  # it had begun
            await until(lambda: upstreams.all[0].open == 0)

    run(main)


def test_closing_while_a_failure_is_looked_into_ends_too() -> None:
    """Before Python 3.12 `asyncio.wait_for` loses a cancellation that comes together with what it waits for."""

    async def main() -> None:
        async with served(1, attempts=1) as (upstreams, servers):
            servers[0].behaviour = failing(STATUS.INTERNAL)
            await refused(upstreams)
            await asyncio.wait_for(upstreams.close(), SECONDS)

    run(main)


def test_control_calls_go_to_every_upstream_and_one_failure_is_told() -> None:
    async def main() -> None:
        async with served(3) as (upstreams, servers):
            assert await upstreams.everywhere("ModelInfer", ASKED, (), SECONDS) == frame()
            assert [server.requests for server in servers] == [1, 1, 1]
            servers[1].behaviour = failing(STATUS.UNAVAILABLE, "This protocol is restricted")
            with pytest.raises(Refused, match="restricted"):
                await upstreams.everywhere("ModelInfer", ASKED, (), SECONDS)

    run(main)


def test_closing_ends_what_runs() -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        async with served(1) as (upstreams, servers):

            async def wait(context: Any) -> None:
                await asyncio.sleep(SECONDS)

            servers[0].behaviour = wait
            call = asyncio.create_task(upstreams.send("ModelInfer", ASKED))
            await until(lambda: servers[0].requests == 1)
            await upstreams.close()
            with pytest.raises(Refused):
                await call
        assert asyncio.all_tasks() == before

    run(main)
