"""How messages over gRPC are read: only so many at once, and what comes slowly makes room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from test_gateway_upstreams import run, until
from tritonclient.grpc.service_pb2 import ModelStreamInferResponse

from lipsync_server.gateway import reading as module
from lipsync_server.gateway.reading import FAST, Reading
from lipsync_server.gateway.refusal import Refused
from lipsync_server.gateway.run import running
from lipsync_server.gateway.settings import GatewaySettings


class Sender:
    """One message, which comes when it is let go."""

    def __init__(self, data: bytes = b"message") -> None:
        self.data, self.sent, self.asked = data, asyncio.Event(), False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.asked = True
        await self.sent.wait()
        return self.data


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.05)


def limited(**settings: Any) -> Reading:
    """Two slow messages at once."""
    return Reading(GatewaySettings(("a:1",), **{"max_message_size_mb": 1, "max_reading_mb": 2, **settings}))


async def read(reading: Reading, sender: Sender) -> bytes:
    async with reading.message(sender) as data:
        return data


def test_of_too_many_slow_messages_the_oldest_is_refused_and_the_others_come() -> None:
    async def main() -> None:
        reading, senders = limited(), [Sender() for _ in range(4)]
        calls = []
        for sender in senders:
            calls.append(asyncio.create_task(read(reading, sender)))
            await asyncio.sleep(0.1)
        for call in calls[:2]:
            with pytest.raises(Refused, match="come slowly") as caught:
                await call
            assert caught.value.reason == "overloaded"
        for sender in senders:
            sender.sent.set()
        assert await asyncio.gather(*calls[2:]) == [b"message"] * 2

    run(main)


def test_a_message_that_does_not_come_in_time_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(Refused, match=r"did not come within 0\.2 s"):
            await read(limited(body_timeout_s=0.2), Sender())

    run(main)


def test_only_so_many_messages_are_read_at_once_and_a_caller_that_leaves_makes_room() -> None:
    async def main() -> None:
        module.SLOW_S = 1000  # the fixture sets it back
        reading, senders = limited(body_timeout_s=1000), [Sender() for _ in range(2 * FAST + 1)]
        calls = [asyncio.create_task(read(reading, sender)) for sender in senders]
        await asyncio.sleep(0.05)
        assert [sender.asked for sender in senders] == [True] * 2 * FAST + [False]
        calls[0].cancel()
        await until(lambda: senders[-1].asked)
        for sender in senders:
            sender.sent.set()
        assert await asyncio.gather(*calls[1:]) == [b"message"] * 2 * FAST

    run(main)


def test_the_bytes_of_open_requests_are_bounded_and_one_alone_is_always_taken() -> None:
    async def main() -> None:
        reading, large, small = limited(), Sender(bytes(3 << 20)), Sender()
        large.sent.set()
        small.sent.set()
        for _ in range(2):  # the second time: the first has left nothing
            async with reading.message(large) as data:
                assert len(data) == 3 << 20
                with pytest.raises(Refused, match="open requests have 3145728 bytes"):
                    await read(reading, small)

    run(main)


def test_a_message_waits_for_its_turn_only_as_long_as_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAST", 0)  # no turn ever comes

    async def main() -> None:
        with pytest.raises(Refused, match="one after the other"):
            await read(limited(body_timeout_s=0.1), Sender())

    run(main)


def test_the_messages_of_a_stream_count_as_those_of_calls(tmp_path: Path) -> None:
    ports = {"grpc_port": 0, "http_port": 0, "monolithic_port": 0, "tokens": str(tmp_path / "tokens.yaml")}

    async def main() -> None:
        async with (
            running(GatewaySettings(("127.0.0.1:9",), **ports)) as (gateway, addresses),
            grpc.aio.insecure_channel(addresses.grpc) as channel,
        ):
            stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(timeout=20)
            with gateway.reading.held(gateway.settings.max_reading_mb << 20):
                await stream.write(b"message")
                answer = ModelStreamInferResponse.FromString(await stream.read())
            assert "open requests have" in answer.error_message
            await stream.done_writing()

    run(main)


def test_a_silent_stream_of_a_caller_is_ended_with_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "STREAM_IDLE_S", 0.1)
    ports = {"grpc_port": 0, "http_port": 0, "monolithic_port": 0, "tokens": str(tmp_path / "tokens.yaml")}

    async def main() -> None:
        async with (
            running(GatewaySettings(("127.0.0.1:9",), **ports)) as (_, addresses),
            grpc.aio.insecure_channel(addresses.grpc) as channel,
        ):
            stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(timeout=20)
            assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "no whole message" in await stream.details()

    run(main)


def test_a_stream_that_is_silent_for_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STREAM_IDLE_S", 0.1)

    async def main() -> None:
        sender = Sender()
        sender.sent.set()
        with pytest.raises(Refused, match="no whole message"):
            async for data in limited().messages(sender):
                assert data == b"message"
                sender.sent.clear()

    run(main)
