"""The limit of open files: raised at the start, stated, and complained of where it is too small."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from test_gateway_status import is_ready
from test_gateway_tokens import Triton, gateway
from test_gateway_tokens import triton as triton  # a fixture

from lipsync_server import open_files
from lipsync_server.gateway.settings import GatewaySettings

RAISE = "from lipsync_server.open_files import *; print(limit(), raise_limit(), limit())"


@pytest.mark.parametrize(("soft", "hard"), [(256, 256), (256, 900)])
def test_the_limit_is_raised_to_the_hard_one(soft: int, hard: int) -> None:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    done = subprocess.run([sys.executable, "-c", RAISE], capture_output=True, text=True, timeout=60, preexec_fn=lower)
    assert done.stdout.split() == [str(soft), str(hard), str(hard)], done.stderr


def test_a_limit_without_end_is_raised_to_a_useful_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(open_files.resource, "setrlimit", lambda which, limits: asked.append(limits))
    open_files.raise_limit()
    assert asked == [(1 << 20, resource.RLIM_INFINITY)]


def test_a_limit_that_is_too_small_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = GatewaySettings(("a:1",), max_connections=3000, max_open_requests=1000)
    monkeypatch.setattr(open_files, "limit", lambda: 4130)
    assert open_files.too_few(settings) is None
    monkeypatch.setattr(open_files, "limit", lambda: 4129)
    told = open_files.too_few(settings)
    assert told is not None and "may have 4129 files open" in told and "may need 4130" in told
    assert "max_connections 3000" in told and "LimitNOFILE=" in told


def test_the_request_log_states_the_limit(triton: Triton, tmp_path: Path) -> None:
    path = tmp_path / "requests.log"

    async def main() -> None:
        async with gateway(triton, tmp_path / "none.yaml", request_log={"file": str(path)}) as at:
            await is_ready(at)

    asyncio.run(main())
    assert f"event=started version=0.1.0 open_files_limit={open_files.limit()}\n" in path.read_text()
