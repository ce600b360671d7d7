"""Several upstreams: failed requests go to the next one, and readiness means that frames are made."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import tritonclient.grpc as grpc
from test_concurrency import stage_processes
from tritonclient.utils import InferenceServerException

from conftest import infer
from gateway_process import gateway
from lipsync_client import Client
from lipsync_server.serving import Ports, ServerConfig, TritonServer
from speech import real_speech

SPEECH = real_speech()[:32_000]
QUICK = {"probe_interval_s": 0.5, "probe_timeout_s": 3.0}
SECONDS = 60


@pytest.fixture(scope="module")
def second(repository) -> Iterator[TritonServer]:
    """Another Triton, which tests may stop for a while."""
    with TritonServer(repository, ServerConfig(ports=Ports(0, 0, 0))) as running:
        yield running


@pytest.fixture(scope="module")
def direct(server) -> list[bytes]:
    with Client(server.grpc_url, timeout=SECONDS) as client:
        return [frame.jpeg for frame in client.render(SPEECH, chunk=4)]


def dead_address() -> tuple[socket.socket, str]:
    """Bound and not listening: nobody answers there while the socket is open."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    return taken, f"127.0.0.1:{taken.getsockname()[1]}"


def rendered(address: str) -> list[bytes]:
    with Client(address, timeout=SECONDS) as client:
        return [frame.jpeg for frame in client.render(SPEECH, chunk=4)]


def test_a_dead_upstream_costs_no_request(server, direct, tmp_path) -> None:
    taken, dead = dead_address()
    with taken, gateway(tmp_path, dead, server.grpc_url, **QUICK) as front:
        assert rendered(front.grpc) == direct
        front.wait()
        assert front.metric("lipsync_gateway_upstream_ready") == 1


def test_with_no_upstream_alive_it_is_live_and_not_ready(tmp_path) -> None:
    taken, dead = dead_address()
    with taken, gateway(tmp_path, dead, patience_s=0.5, **QUICK) as front:
        assert front.get("/healthz")[0] == 200
        status, text = front.get("/readyz")
        assert (status, dead in text.decode()) == (503, True)
        with grpc.InferenceServerClient(front.grpc) as client:
            assert client.is_server_live() and not client.is_server_ready()
            assert not client.is_model_ready("lipsync_ensemble")
            with pytest.raises(InferenceServerException, match="no server behind this gateway is ready") as caught:
                infer(client, "lipsync_ensemble", AUDIO=SPEECH)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"


def test_an_upstream_stopped_in_mid_speech_loses_no_frame(server, second, direct, tmp_path) -> None:
    with gateway(tmp_path, second.grpc_url, server.grpc_url, **QUICK) as front:
        front.wait()
        frames: list[bytes] = []
        with Client(front.grpc, timeout=SECONDS) as client:
            for frame in client.render(SPEECH, chunk=4):
                frames.append(frame.jpeg)
                if len(frames) == 8:
                    os.kill(second.pid, signal.SIGSTOP)
        try:
            assert frames == direct
            assert front.get("/readyz")[0] == 200
        finally:
            os.kill(second.pid, signal.SIGCONT)
        deadline = time.monotonic() + SECONDS
        while front.metric("lipsync_gateway_upstream_ready") < 2:  # it is back
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_both_upstreams_work_at_once(server, second, tmp_path) -> None:
    with gateway(tmp_path, server.grpc_url, second.grpc_url, **QUICK) as front:
        front.wait()
        while front.metric("lipsync_gateway_upstream_ready") < 2:
            time.sleep(0.05)
        threads = [threading.Thread(target=rendered, args=(front.grpc,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        text = front.get("/metrics")[1].decode()
        for one in (server, second):
            assert f'lipsync_gateway_attempts_total{{status="OK",upstream="{one.grpc_url}"}}' in text


def test_a_dead_stage_makes_it_unready_and_its_requests_go_elsewhere(server, repository, direct, tmp_path) -> None:
    with TritonServer(repository, ServerConfig(ports=Ports(0, 0, 0))) as broken:
        (tmp_path / "alone").mkdir()
        with (
            gateway(tmp_path, broken.grpc_url, server.grpc_url, **QUICK) as front,
            gateway(tmp_path / "alone", broken.grpc_url, patience_s=0.5, **QUICK) as alone,
        ):
            front.wait()
            alone.wait()
            os.kill(stage_processes(broken)["composite"], signal.SIGKILL)
            assert rendered(front.grpc) == direct
            alone.wait(ready=False)
            with grpc.InferenceServerClient(broken.grpc_url) as client:
                assert client.is_server_ready()  # which is what Triton itself says
            with grpc.InferenceServerClient(alone.grpc) as client:
                assert not client.is_server_ready()
            assert front.get("/readyz")[0] == 200


def test_a_request_is_held_until_a_killed_server_is_back(repository, direct, tmp_path) -> None:
    """Kill -9, and another in its place on the same port."""
    with TritonServer(repository, ServerConfig(ports=Ports(0, 0, 0))) as first:
        address = first.grpc_url
        with gateway(tmp_path, address, patience_s=60, **QUICK) as front:
            front.wait()
            os.kill(first.pid, signal.SIGKILL)
            front.wait(ready=False)
            answers: list[list[bytes]] = []
            caller = threading.Thread(target=lambda: answers.append(rendered(front.grpc)))
            caller.start()
            first.stop()
            port = int(address.rpartition(":")[2])
            with TritonServer(repository, ServerConfig(ports=Ports(0, port, 0))):
                caller.join(2 * SECONDS)
                assert answers == [direct]
                front.wait()
