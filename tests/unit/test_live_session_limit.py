"""A token's limit of live sessions: from the header that a session sends to the gateway's refusal."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from client_fake import running as serving
from live_fake import LiveFake
from test_gateway_tokens import Clock, Triton, gateway
from test_gateway_tokens import triton as triton  # a fixture
from typer.testing import CliRunner

from lipsync_client import AsyncClient, LiveSession, Overloaded, Request
from lipsync_client.cli.main import app
from lipsync_client.connection import SESSION_HEADER
from lipsync_server.gateway.live_sessions import KEPT_S, LiveSessions
from lipsync_server.gateway.tokens import new_token, read_tokens

ASKED = Request(np.zeros(1000, np.float32), 0, True, 0, 1, 0)


def test_a_session_has_a_place_until_it_is_silent_for_a_while() -> None:
    clock = Clock()
    sessions = LiveSessions(clock)
    assert [sessions.admit("anna", one, 2) for one in ("a", "b", "c", "a")] == [True, True, False, True]
    assert sessions.admit("ben", "c", 1), "another token has places of its own"
    clock.time += KEPT_S - 1
    assert sessions.admit("anna", "b", 2)
    clock.time += 2
    assert sessions.admit("anna", "c", 2), "a has been silent"
    assert not sessions.admit("anna", "a", 2)


@pytest.mark.parametrize("session", ["", "x" * 65, "a\nb", "a b"])
def test_what_is_no_session_takes_no_place(session: str) -> None:
    sessions = LiveSessions(Clock())
    assert all(sessions.admit("anna", session, 1) for _ in range(3)) and sessions.admit("anna", "a", 1)


def test_a_token_has_only_so_many_live_sessions_at_once(triton: Triton, tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    token, other = new_token(file, "anna", live_sessions=1), new_token(file, "ben")

    async def main() -> None:
        async with gateway(triton, file) as at, AsyncClient(at.grpc, token=token) as client:
            for _ in range(2):
                await client.attempt(ASKED, "demo", session="first")
            with pytest.raises(Overloaded, match=r"1 live sessions of this token talk"):
                await client.attempt(ASKED, "demo", session="second")
            assert await asyncio.to_thread(post, at.http, token, "second") == 429
            assert await asyncio.to_thread(post, at.http, token, "first") == 200
            await client.attempt(ASKED, "demo")  # no live session
            async with AsyncClient(at.grpc, token=other) as unlimited:
                for name in ("a", "b", "c"):
                    await unlimited.attempt(ASKED, "demo", session=name)

    asyncio.run(main())


def post(address: str, token: str, session: str) -> int:
    audio = {"name": "AUDIO", "datatype": "FP32", "shape": [4], "data": [0, 0, 0, 0]}
    body = json.dumps({"inputs": [audio], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Authorization": f"Bearer {token}", SESSION_HEADER: session}
    url = f"http://{address}/v2/models/lipsync_ensemble/infer"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_live_session_sends_one_id_of_its_own() -> None:
    seen: list[tuple[str, str | None]] = []

    class Listening(LiveFake):
        def ModelInfer(self, request, context):
            seen.append((request.model_name, dict(context.invocation_metadata()).get(SESSION_HEADER)))
            return super().ModelInfer(request, context)

    async def talk(url: str | AsyncClient) -> set[str | None]:
        seen.clear()
        async with LiveSession(url, chunk=8) as session:
            await session.push(np.zeros(500, np.float32), 1000)
            await session.end_speech()
            async for frame in session:
                if frame.last:
                    break
        assert {model for model, _ in seen} == {"lipsync_ensemble", "composite"}
        return {id for _, id in seen}

    async def main() -> None:
        with serving(Listening()) as fake:
            async with AsyncClient(fake.url) as shared:
                ids = [await talk(fake.url), await talk(shared), await talk(shared)]
        assert all(len(one) == 1 for one in ids) and None not in set.union(*ids) and len(set.union(*ids)) == 3

    asyncio.run(asyncio.wait_for(main(), 60))


def test_the_command_writes_the_limit(tmp_path: Path) -> None:
    options = ["token", "new", "anna", "--live-sessions", "3", "--tokens", str(tmp_path / "tokens.yaml")]
    assert CliRunner().invoke(app, options).exit_code == 0
    assert read_tokens(tmp_path / "tokens.yaml")[0].live_sessions == 3
