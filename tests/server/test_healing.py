"""`lipsync serve` heals: what is killed is started again, and clients that are served meanwhile lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from conftest import eventually, infer
from lipsync_client import AsyncClient, Client, Control, LiveSession
from lipsync_server.serving import leftovers
from lipsync_server.serving.stages import StageWatch
from speech import real_speech

SECONDS = 120.0  # no wait may last longer
LINE = re.compile(r"Serving .* at grpc (\S+), http http://(\S+), monolithic (\S+), metrics http://\S+ \(.*\)\n")
SETTINGS = """
ports: {http: 0, grpc: 0, metrics: 0, monolithic: 0}
gateway: {probe_interval_s: 0.5, probe_timeout_s: 2, patience_s: 120}
"""
SPEECH = np.tile(real_speech(), 3)[: 16_000 * 6]


@dataclass
class Serving:
    """A running `lipsync serve`."""

    grpc: str
    http: str
    monolithic: str
    process: subprocess.Popen[str]
    errors: Path
    control_key: str

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.http}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.HTTPError, OSError):
            return False

    def part(self, name: str) -> int:
        """Process id of the Triton, of the gateway, or of the stage of a model."""
        if name == "gateway":
            (found,) = (pid for pid in children(self.process.pid) if b"\0gateway\0" in arguments(pid))
            return found
        (triton,) = (pid for pid, owner in leftovers.processes(leftovers.SERVER) if f"_{self.process.pid}_" in owner)
        return triton if name == "triton" else {model: pid for pid, model in StageWatch(triton).names().items()}[name]

    def kill(self, name: str) -> None:
        """Kill -9; return when it says that it is not ready, and then that it is."""
        os.kill(self.part(name), signal.SIGKILL)
        eventually(lambda: not self.ready())
        eventually(self.ready)

    def said(self) -> str:
        return self.errors.read_text()


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(int(stat.parent.name))
    return found


def arguments(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.fixture(scope="module")
def serving(repository, server, tmp_path_factory) -> Iterator[Serving]:
    """`lipsync serve` as users run it, beside the Triton of other tests, on the same models."""
    folder = tmp_path_factory.mktemp("serving")
    (folder / "server.yaml").write_text(SETTINGS)
    command = [sys.executable, "-m", "lipsync_client.cli.main", "serve"]
    command += ["--repository", str(repository), "--config", str(folder / "server.yaml")]
    key = server.control_key
    variables = {**os.environ, "LIPSYNC_CONTROL_KEY": key, "XDG_CACHE_HOME": str(folder / "cache")}
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables)
    try:
        assert process.stdout is not None
        found = LINE.fullmatch(process.stdout.readline())
        assert found, (folder / "errors").read_text()
        yield Serving(*found.groups(), process, folder / "errors", key)
    finally:
        process.kill()  # what it has started then ends by itself
        process.wait(SECONDS)


async def streamed(url: str) -> list[tuple[int, int, bytes]]:
    """A live speech: number, footage position and picture of each talking frame."""
    shown = []
    async with LiveSession(url, timeout=SECONDS) as session:

        async def speak() -> None:
            for piece in np.array_split(SPEECH, 24):
                await session.push(piece, 16_000)
            await session.end_speech()

        speaking = asyncio.create_task(speak())
        async for frame in session:
            if frame.speech_frame is not None:
                shown.append((frame.speech_frame, frame.footage_position, frame.jpeg))
            if frame.last:
                break
        await speaking
    return shown


async def whole(url: str, footage_start: int = 0, avatar: str = "demo", chunk: int = 8) -> list[bytes]:
    async with AsyncClient(url, timeout=SECONDS) as client:
        frames = client.render(SPEECH, chunk=chunk, footage_start=footage_start, avatar=avatar)
        return [frame.jpeg async for frame in frames]


def test_kill_9_in_mid_speech_costs_no_stream_and_no_rendering_a_frame(serving, server, quick) -> None:
    """Of a stage, of Triton and of the gateway, with an avatar that was loaded on demand and is loaded no more."""

    async def main() -> None:
        renderings = []
        killed = asyncio.Event()

        async def render() -> None:
            while not killed.is_set():
                renderings.append(await whole(serving.grpc, avatar=quick))

        async def kill() -> None:
            for part in ("composite", "mel_preprocess", "audio_encoder_int8", "triton", "gateway"):
                await asyncio.to_thread(serving.kill, part)
                served = len(renderings)  # who is hit by several in a row is taken for their cause
                await asyncio.to_thread(eventually, lambda served=served: len(renderings) > served)
            killed.set()

        first, second, _, _ = await asyncio.gather(streamed(serving.grpc), streamed(serving.grpc), render(), kill())
        expected = await whole(server.grpc_url, avatar=quick)
        assert [rendering == expected for rendering in renderings] == [True] * len(renderings)
        for shown in (first, second):
            assert [number for number, _, _ in shown] == list(range(len(expected)))
            for start in {position - number for number, position, _ in shown}:  # the footage moved on while it waited
                pictures = await whole(server.grpc_url, start, chunk=32)
                late = [(number, jpeg) for number, position, jpeg in shown if position - number == start]
                assert all(jpeg == pictures[number] for number, jpeg in late)

    asyncio.run(asyncio.wait_for(main(), 2 * SECONDS))
    said = serving.said()
    for stage in ("composite", "mel_preprocess", "audio_encoder_int8"):
        assert f"Triton's stage {stage} has ended: it is started again" in said
    assert "Triton has ended, killed by signal 9: it is started again" in said
    assert "The gateway has ended, killed by signal 9" in said
    assert said.count("Triton serves again") == 4


@pytest.mark.parametrize("part", ["composite", "quick_lipsync"])
def test_a_stage_that_hangs_is_replaced_and_no_frame_is_lost(serving, server, quick, part: str) -> None:
    """SIGSTOP: it runs on and answers nothing. Also where it serves one avatar alone, so that the server is ready."""
    avatar = part.removesuffix("_lipsync") if part != "composite" else "demo"
    expected = asyncio.run(whole(serving.grpc, avatar=avatar))  # which loads it
    healed = serving.said().count("Triton serves again")

    async def main() -> None:
        rendering = asyncio.create_task(whole(serving.grpc, avatar=avatar))
        os.kill(serving.part(part), signal.SIGSTOP)
        await asyncio.to_thread(eventually, lambda: serving.said().count("Triton serves again") > healed)
        assert await rendering == expected
        await asyncio.to_thread(eventually, serving.ready)

    asyncio.run(asyncio.wait_for(main(), SECONDS))
    assert serving.said().count("Triton runs, but makes no frame any more: it is started again") >= 1


def test_a_gateway_that_hangs_is_replaced(serving) -> None:
    gateway = serving.part("gateway")
    os.kill(gateway, signal.SIGSTOP)
    eventually(lambda: "The gateway runs, but does not answer any more: it is started again" in serving.said())
    eventually(serving.ready)
    assert serving.part("gateway") != gateway


def test_an_idle_server_is_not_ready_while_it_is_replaced(serving) -> None:
    """No request tells the gateway; other avatars' stages count too."""
    with grpc.InferenceServerClient(serving.grpc) as client:
        assert client.is_server_ready()
        os.kill(serving.part("lipsync_visual"), signal.SIGKILL)
        eventually(lambda: not client.is_server_ready())
        with Control(serving.grpc) as control:
            assert control.status().live, "which does not wait for the server"
        eventually(client.is_server_ready)
        assert client.is_model_ready("lipsync_visual_ensemble")


def test_triton_answers_nobody_but_the_gateway(serving) -> None:
    options = arguments(serving.part("triton")).decode().split("\0")
    assert {"--allow-http=false", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1"} <= set(options)
    (port,) = (option.partition("=")[2] for option in options if option.startswith("--grpc-port="))
    refused = pytest.raises(InferenceServerException, match=r"restricted.*lipsync-inference")
    with grpc.InferenceServerClient(f"127.0.0.1:{port}") as direct, refused:
        infer(direct, "lipsync_ensemble", AUDIO=SPEECH[:640])
    assert serving.control_key not in "".join(options)


def test_metrics_are_the_gateways_and_tritons(serving) -> None:
    with urllib.request.urlopen(f"http://{serving.http}/metrics", timeout=SECONDS) as answer:
        text = answer.read().decode()
    assert "lipsync_gateway_upstream_ready{" in text
    assert "nv_inference_request_success{" in text


def test_clients_and_control_work_through_it(serving, quick) -> None:
    with Client(serving.grpc, timeout=SECONDS) as client:
        assert client.infer(SPEECH[:16_000], frame_count=2).frames
    with Control(serving.grpc, key=serving.control_key) as control:
        control.load(quick)
        assert {state.id: state.loaded for state in control.avatars()}[quick]
        control.unload(quick)
        control.wait_until_gone(quick, SECONDS)


def test_sigterm_while_it_heals_leaves_nothing(serving) -> None:
    """The last test: the server that all share ends here."""
    owner = f"_{serving.process.pid}_"
    os.kill(serving.part("triton"), signal.SIGKILL)
    eventually(lambda: not serving.ready())
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(SECONDS) == 0
    assert not [name for _, name in leftovers.processes(leftovers.SERVER, leftovers.STAGE) if owner in name]
    assert not list(leftovers.SHARED_MEMORY.glob(f"*{owner}*"))
    for address in (serving.grpc, serving.http, serving.monolithic):
        host, _, port = address.partition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)
    assert "Traceback" not in serving.said()
