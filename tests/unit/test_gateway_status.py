"""What `lipsync status` shows of a gateway: asked on its real ports, before a stand-in for a Triton."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from client_fake import WAIT_S, FakeServer
from client_fake import running as serving
from rich.console import Console
from test_gateway_tokens import Triton, gateway, get, strangers  # noqa: F401 (a fixture)
from test_gateway_tokens import triton as triton  # a fixture
from tritonclient.grpc import service_pb2 as pb
from typer.testing import CliRunner

from lipsync_client import AccessDenied, Control, ServerUnavailable
from lipsync_client.cli.gateway_tables import gateway_tables
from lipsync_client.cli.main import app
from lipsync_server.gateway.run import Addresses
from lipsync_server.gateway.tokens import new_token
from lipsync_server.gateway.upstream_metrics import Gpu, gpus_in
from lipsync_server.serving.status_file import StatusFile

METRICS = b"""
# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-b"} 0.25
nv_gpu_utilization{gpu_uuid="GPU-a"} 0
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{gpu_uuid="GPU-b"} 8589934592.000000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-b"} 1e9
nv_inference_count{model="lipsync",version="1"} 12
"""


async def is_ready(at: Addresses) -> None:
    async def look() -> None:
        while (await get(f"http://{at.http}/readyz"))[0] != 200:
            await asyncio.sleep(0.02)

    await asyncio.wait_for(look(), WAIT_S)


def healed(path: Path) -> StatusFile:
    """The file of a supervisor whose Triton waits for its third start, because a stage keeps ending."""
    file = StatusFile()
    file.path = path
    file.gateway.starting()
    file.gateway.running(11)
    for delay in (0.0, 0.0, 30.0):
        file.triton.starting()
        file.triton.running(12)
        file.stages = ["composite", "lipsync", "composite"]
        file.stage_ended("composite")
        file.triton.ended("Triton's stage composite has ended", delay)
    file.write()
    return file


def test_a_gateway_tells_of_its_servers_and_of_its_supervisor(triton: Triton, tmp_path: Path) -> None:
    file = healed(tmp_path / "status.json")

    async def main() -> tuple[dict[str, Any], Any]:
        settings = {"supervisor_status": str(file.path)}
        async with gateway(triton, tmp_path / "none.yaml", **settings) as at:
            await is_ready(at)
            with Control(at.grpc, timeout=10) as control:
                told = await asyncio.to_thread(control.gateway)
            assert told is not None and told["ready"]
            return told, json.loads((await get(f"http://{at.http}/status"))[2])

    told, over_http = asyncio.run(main())
    (upstream,) = told["upstreams"]
    assert (upstream["address"], upstream["ready"], upstream["trouble"]) == (triton.url, True, "")
    assert upstream["last_probe"] <= upstream["last_frame"] <= told["time"]
    program = told["supervisor"]["triton"]
    assert (program["state"], program["restarts"]) == ("waiting", 2)
    assert program["last_end"]["reason"] == "Triton's stage composite has ended"
    assert program["next_start"] > program["last_end"]["time"]
    assert told["supervisor"]["stages"][0] == {"model": "composite", "processes": 2, "ends": 3}
    assert told["gpus"] == []
    assert over_http.keys() == told.keys() and over_http["supervisor"] == told["supervisor"]


def test_a_status_is_asked_within_the_same_rights_as_frames(
    strangers: None,  # noqa: F811
    triton: Triton,
    tmp_path: Path,
) -> None:
    token = new_token(tmp_path / "tokens.yaml", "anna")

    async def main() -> None:
        async with gateway(triton, tmp_path / "tokens.yaml") as at:
            with Control(at.grpc) as control, pytest.raises(AccessDenied, match="need a token"):
                await asyncio.to_thread(control.gateway)
            assert (await get(f"http://{at.http}/status"))[0] == 401
            with Control(at.grpc, token=token) as control:
                told = await asyncio.to_thread(control.gateway)
            assert told is not None and told["supervisor"] is None

    asyncio.run(main())


def test_a_server_without_a_gateway_has_no_such_status() -> None:
    with serving(FakeServer()) as fake, Control(fake.url) as control:
        assert control.gateway() is None
    with Control(fake.url, timeout=5) as control, pytest.raises(ServerUnavailable):
        control.gateway()


class Described(Triton):
    """It has a version too."""

    def ServerMetadata(self, request, context):
        return pb.ServerMetadataResponse(name="triton", version="2.51.0")


def test_the_command_shows_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    file = healed(tmp_path / "status.json")

    async def main(triton: Described) -> tuple[str, str]:
        async with gateway(triton, tmp_path / "none.yaml", supervisor_status=str(file.path)) as at:
            await is_ready(at)
            ask = lambda *options: CliRunner().invoke(app, ["status", "--server", at.grpc, *options])  # noqa: E731
            return (await asyncio.to_thread(ask)).stdout, (await asyncio.to_thread(ask, "--json")).stdout

    with serving(Described()) as triton:
        shown, as_json = asyncio.run(main(triton))
    for part in (triton.url, "Triton 2.51.0", "waiting", "Triton's stage composite has ended", "gateway 0."):
        assert part in shown
    assert json.loads(as_json)["gateway"]["supervisor"]["triton"]["restarts"] == 2


def test_the_tables_show_avatars_and_gpus() -> None:
    avatar = {"id": "anna", "loaded": True, "gpu": 1, "memory_mb": 42, "requests": 7, "last_used": None}
    status = {
        "time": "2026-01-01T00:02:00.000+00:00",
        "upstreams": [],
        "supervisor": None,
        "avatars": [avatar, {**avatar, "id": "[bold]ben", "loaded": False}],
        "gpus": [{"uuid": "GPU-b", "utilization": 0.25, "memory_used_bytes": 1 << 30, "memory_total_bytes": 8 << 30}],
    }
    console = Console(width=150)
    with console.capture() as captured:
        console.print(*gateway_tables(status))
    shown = captured.get()
    for part in ("GPU 1", "42", "never", "[bold]ben", "not loaded", "25%", "1.0 of 8.0 GiB"):
        assert part in shown


def test_the_gpus_are_those_of_tritons_metrics() -> None:
    assert gpus_in(METRICS) == [Gpu("GPU-b", 0.25, 10**9, 1 << 33), Gpu("GPU-a")]
    assert gpus_in(b"") == []


def test_the_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = healed(tmp_path / "status.json")
    assert file.path is not None
    before = file.path.stat()
    file.write()
    assert file.path.stat().st_ino == before.st_ino, "nothing has changed"
    assert before.st_mode & 0o077 == 0
    file.stages = []
    file.write()
    assert file.path.stat().st_ino != before.st_ino and json.loads(file.path.read_text())["stages"][0]["processes"] == 0
    assert [one.name for one in tmp_path.iterdir()] == ["status.json"]
    file.remove()
    assert list(tmp_path.iterdir()) == []
    file.path = tmp_path / "no folder" / "status.json"
    file.stages = ["composite"]
    file.write()  # a disk that refuses it ends no server


def test_a_program_that_runs_again_waits_for_no_start() -> None:
    file = StatusFile()
    file.triton.starting()
    file.triton.ended("it broke", 5.0)
    assert file.triton.next_start is not None and file.triton.next_start > time.time()
    file.triton.starting()
    file.triton.running(7)
    assert (file.triton.next_start, file.triton.restarts, file.triton.pid) == (None, 1, 7)
