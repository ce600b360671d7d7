"""Clients as they are, through the gateway: the same answers as from the server itself."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator

import grpc as grpc_core
import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http
import tritonclient.http.aio as http_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

from gateway_process import Gateway, gateway
from lipsync_client import AsyncClient, AvatarNotFound, Client, Control, ControlDenied, InvalidRequest, LiveSession
from live_clock import run, until_last
from speech import real_speech

SPEECH = real_speech()[:17_700]
SECONDS = 60


@pytest.fixture(scope="module")
def front(server, tmp_path_factory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("gateway"), server.grpc_url, key=server.control_key) as running:
        running.wait()
        yield running


@pytest.fixture(scope="module")
def direct(server) -> list[bytes]:
    """The frames of SPEECH, from the server itself."""
    with Client(server.grpc_url, timeout=SECONDS) as client:
        return [frame.jpeg for frame in client.render(SPEECH)]


def tensors(kind, **options) -> list:
    """A request for four frames, by Triton's client for gRPC or HTTP."""
    values = {"AUDIO": SPEECH, "FRAME_COUNT": np.array([4], np.int32)}
    made = [
        kind.InferInput(name, value.shape, "FP32" if name == "AUDIO" else "INT32") for name, value in values.items()
    ]
    return [one.set_data_from_numpy(value, **options) for one, value in zip(made, values.values(), strict=True)]


@pytest.fixture(scope="module")
def four(client) -> list[bytes]:
    """The frames of `tensors`, from the server itself."""
    return client.infer("lipsync_ensemble", tensors(grpc), client_timeout=SECONDS).as_numpy("JPEG").tolist()


def test_frames_through_the_gateway_are_the_servers_bytes(front, direct) -> None:
    with Client(front.grpc, timeout=SECONDS) as client:
        assert client.avatar().id == "demo"
        assert [frame.jpeg for frame in client.render(SPEECH)] == direct


def test_an_async_client_gets_the_same_frames(front, direct) -> None:
    async def render() -> list[bytes]:
        async with AsyncClient(front.grpc, timeout=SECONDS) as client:
            return [frame.jpeg async for frame in client.render(SPEECH, chunk=7)]

    assert asyncio.run(asyncio.wait_for(render(), SECONDS)) == direct


def test_a_live_session_through_the_gateway_gives_the_servers_frames(front, direct, clock) -> None:
    async def main() -> None:
        async with LiveSession(front.grpc, clock=clock, timeout=SECONDS) as session:
            await session.push(SPEECH, 16_000)
            await session.end_speech()
            frames = await until_last(session)
        spoken = [frame for frame in frames if frame.speech_frame is not None]
        assert [frame.speech_frame for frame in spoken] == list(range(len(spoken)))
        with Client(front.grpc, timeout=SECONDS) as client:
            whole = list(client.render(SPEECH, footage_start=spoken[0].footage_position))
        assert [frame.jpeg for frame in spoken] == [frame.jpeg for frame in whole]

    run(main, clock)


def test_tritons_grpc_client_works_sync_async_and_streaming(front, four) -> None:
    async def ask() -> list[bytes]:
        async with grpc_aio.InferenceServerClient(front.grpc) as client:
            return (await client.infer("lipsync_ensemble", tensors(grpc))).as_numpy("JPEG").tolist()

    with grpc.InferenceServerClient(front.grpc) as client:
        assert client.infer("lipsync_ensemble", tensors(grpc)).as_numpy("JPEG").tolist() == four
        assert asyncio.run(asyncio.wait_for(ask(), SECONDS)) == four
        answers: list = []
        client.start_stream(lambda result, error: answers.append((result, error)))
        client.async_stream_infer("lipsync_ensemble", tensors(grpc), request_id="first")
        deadline = time.monotonic() + SECONDS
        while not answers:  # while the stream stays open
            assert time.monotonic() < deadline
            time.sleep(0.01)
        client.async_stream_infer("lipsync_ensemble", [], request_id="wrong")
        client.async_stream_infer("lipsync_ensemble", tensors(grpc), request_id="third")
        client.stop_stream()
    (first, _), (_, error), (third, _) = answers
    assert first.as_numpy("JPEG").tolist() == third.as_numpy("JPEG").tolist() == four
    assert [first.get_response().id, third.get_response().id] == ["first", "third"]
    assert "AUDIO is missing" in str(error)


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_http_client_works_sync_and_async(front, four, binary: bool) -> None:
    async def ask() -> list[bytes]:
        async with http_aio.InferenceServerClient(front.http) as client:
            answer = await client.infer("lipsync_ensemble", tensors(http, binary_data=binary))
            return answer.as_numpy("JPEG").tolist()

    outputs = [http.InferRequestedOutput("JPEG"), http.InferRequestedOutput("FRAME_INDEX", binary_data=False)]
    with http.InferenceServerClient(front.http) as client:
        answer = client.infer("lipsync_ensemble", tensors(http, binary_data=binary), outputs=outputs)
    assert answer.as_numpy("JPEG").tolist() == four
    assert answer.as_numpy("FRAME_INDEX").tolist() == [0, 1, 2, 3]
    assert asyncio.run(asyncio.wait_for(ask(), SECONDS)) == four


def test_what_models_say_of_themselves_is_the_servers_word(front, server) -> None:
    with http.InferenceServerClient(front.http) as here, http.InferenceServerClient(server.http_url) as there:
        assert here.is_server_live() and here.is_server_ready() and here.is_model_ready("lipsync_ensemble")
        assert here.get_model_metadata("lipsync_ensemble") == there.get_model_metadata("lipsync_ensemble")
        config, original = (one.get_model_config("lipsync_ensemble") for one in (here, there))
        newer = config["ensemble_scheduling"].pop("max_inflight_requests", 0)  # than the server's own field names
        assert (config, newer) == (original, 0)
        assert here.get_server_metadata()["version"] == there.get_server_metadata()["version"]
        assert "system_shared_memory" not in here.get_server_metadata()["extensions"]
        counted = here.get_inference_statistics("lipsync_ensemble")["model_stats"][0]
        assert counted["inference_stats"]["success"]["count"] > 0


def test_curl_gets_frames(front, four, tmp_path) -> None:
    body = tmp_path / "body.json"
    samples = ",".join(map(str, SPEECH.tolist()))
    body.write_text(
        '{"inputs": [{"name": "AUDIO", "shape": [17700], "datatype": "FP32", "data": [' + samples + "]}, "
        '{"name": "FRAME_COUNT", "shape": [1], "datatype": "INT32", "data": [4]}], '
        '"outputs": [{"name": "JPEG", "parameters": {"binary_data": true}}]}'
    )
    url = f"http://{front.http}/v2/models/lipsync_ensemble/infer"
    answer = subprocess.run(
        ["curl", "-sS", "--fail", "--data-binary", f"@{body}", url], capture_output=True, check=True, timeout=SECONDS
    ).stdout
    assert four[0] in answer and four[3] in answer


def test_control_needs_the_servers_key_which_is_passed_on(front, server) -> None:
    for key in ("wrong-key-wrong-key", None):
        with Control(front.grpc, key=key or "another-wrong-key", timeout=SECONDS) as stranger:
            assert stranger.status().ready
            with pytest.raises(ControlDenied):
                stranger.avatars()
            with pytest.raises(ControlDenied):
                stranger.load("demo")
    with grpc.InferenceServerClient(front.grpc) as client:
        for call in (
            client.get_model_repository_index,
            client.get_system_shared_memory_status,
            client.get_trace_settings,
            client.get_log_settings,
            lambda: client.unload_model("lipsync_ensemble"),
        ):
            with pytest.raises(InferenceServerException, match="protocol is restricted") as caught:
                call()
            assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
    with Control(front.grpc, key=server.control_key, timeout=SECONDS) as owner:
        assert "demo" in [avatar.id for avatar in owner.avatars()]
        owner.load("demo")  # which changes nothing


def test_an_unknown_avatar_and_a_bad_value_are_told_as_by_the_server(front) -> None:
    with Client(front.grpc, timeout=SECONDS) as client:
        with pytest.raises(AvatarNotFound, match="nobody"):
            list(client.render(SPEECH, avatar="nobody"))
        with pytest.raises(InvalidRequest, match=r"^FRAME_COUNT is 99: "):
            client.infer(SPEECH, frame_count=99)


def test_a_deadline_and_a_cancellation_end_the_request(front) -> None:
    with grpc.InferenceServerClient(front.grpc) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("lipsync_ensemble", tensors(grpc), client_timeout=0.001)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        ended: list = []
        calls = [
            client.async_infer("lipsync_ensemble", tensors(grpc), lambda result, error: ended.append(error))
            for _ in range(8)
        ]
        for call in calls:
            call.cancel()
        deadline = time.monotonic() + SECONDS
        while front.metric("lipsync_gateway_open_requests") or front.metric("lipsync_gateway_upstream_open"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(client.infer("lipsync_ensemble", tensors(grpc)).as_numpy("JPEG")) == 4


def test_health_and_reflection_answer(front) -> None:
    for address, service in (
        (front.grpc, "inference.GRPCInferenceService"),
        (front.monolithic, "monolithic.MonolithicService"),
    ):
        with grpc_core.insecure_channel(address) as channel:
            for asked in ("", service):
                request = health_pb2.HealthCheckRequest(service=asked)
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=SECONDS)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            reflected = ProtoReflectionDescriptorDatabase(channel)
            assert {service, "grpc.health.v1.Health"} <= set(reflected.get_services())
            assert service.rpartition(".")[0] == reflected.FindFileContainingSymbol(service).package


def test_metrics_count_frames_and_refusals(front) -> None:
    names = ("lipsync_gateway_frames_total", "lipsync_gateway_refusals_total", "lipsync_gateway_requests_total")
    before = [front.metric(name) for name in names]
    with grpc.InferenceServerClient(front.grpc) as client:
        client.infer("lipsync_ensemble", tensors(grpc))
        with pytest.raises(InferenceServerException):
            client.infer("lipsync", tensors(grpc))
    assert [front.metric(name) - old for name, old in zip(names, before, strict=True)] == [4, 1, 2]
    assert front.metric("lipsync_gateway_upstream_ready") == 1
