"""Requests that end a Triton, and others that no caller should send: through the gateway each is refused."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc as grpc_core
import numpy as np
import pytest
import test_bad_requests as bad
import tritonclient.grpc as grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.utils import InferenceServerException

from conftest import infer
from gateway_process import Gateway, gateway
from speech import real_speech

SPEECH = real_speech()[:32_000]
INFER = "/v2/models/lipsync_ensemble/infer"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
SECONDS = 60
HUGE = (2**62, 2**40, 2**33, 2**61 + 1)


@pytest.fixture(scope="module")
def front(server, tmp_path_factory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("gateway"), server.grpc_url) as running:
        running.wait()
        yield running


@pytest.fixture(scope="module")
def through(front) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(front.grpc) as client:
        yield client


@pytest.fixture
def unharmed(server, front, through, client) -> Iterator[None]:
    """After the test gateway and server are the processes that they were, and make the same frame as before."""
    expected = infer(client, "lipsync_ensemble", AUDIO=SPEECH, FRAME_COUNT=1).JPEG.tolist()
    pids = server.pid, front.process.pid
    yield
    assert infer(through, "lipsync_ensemble", AUDIO=SPEECH, FRAME_COUNT=1).JPEG.tolist() == expected
    assert (server.exit_status, front.process.poll()) == (None, None)
    assert (server.pid, front.process.pid) == pids


def valid() -> ModelInferRequest:
    request = ModelInferRequest(model_name="lipsync_ensemble")
    request.inputs.add(name="AUDIO", datatype="FP32", shape=[640])
    request.raw_input_contents.append(bytes(2560))
    return request


def refused(front: Gateway, data: bytes | ModelInferRequest) -> str:
    """The sentence of a request over gRPC that must be refused as INVALID_ARGUMENT."""
    data = data if isinstance(data, bytes) else data.SerializeToString()
    with grpc_core.insecure_channel(front.grpc) as channel, pytest.raises(grpc_core.RpcError) as caught:
        channel.unary_unary(METHOD)(data, timeout=SECONDS)
    assert caught.value.code() is grpc_core.StatusCode.INVALID_ARGUMENT, caught.value
    return caught.value.details()


def post(
    front: Gateway, body: bytes, path: str = "/v2/models/lipsync_ensemble/infer", **headers: str
) -> tuple[int, str]:
    """Status and answer of a POST; the answer must come also while the server has not read all of the request."""
    host, port = front.http.split(":")
    given = {"host": front.http, "content-length": str(len(body)), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value)]
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += (part := connection.recv(65536))
            assert part, answer
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        while len(rest) < length:
            rest += (part := connection.recv(65536))
            assert part, answer
    return int(head.split()[1]), rest.decode()


def as_json(**changes) -> dict:
    tensor = {"name": "AUDIO", "shape": [640], "datatype": "FP32", "data": [0.0] * 640} | changes
    return {"inputs": [tensor], "outputs": [{"name": "JPEG", "parameters": {"binary_data": True}}]}


@pytest.mark.parametrize("size", HUGE)
def test_a_tensor_whose_bytes_overflow_is_refused_over_grpc(unharmed, front, size: int) -> None:
    request = ModelInferRequest(model_name="lipsync_ensemble")
    request.inputs.add(name="AUDIO", datatype="FP32", shape=[size])
    assert "AUDIO" in refused(front, request)
    request.raw_input_contents.append(b"")
    assert "AUDIO" in refused(front, request)


@pytest.mark.parametrize("size", HUGE)
def test_a_tensor_whose_bytes_overflow_is_refused_over_http(unharmed, front, size: int) -> None:
    for changes in ({"data": []}, {"data": [0.0]}):
        status, text = post(front, json.dumps(as_json(shape=[size], **changes)).encode())
        assert (status, "AUDIO" in text) == (400, True), text


def test_json_nested_500000_deep_is_refused(unharmed, front) -> None:
    for body in (b"[" * 500_000, b'{"a":' * 500_000, b'{"inputs":' + b"[" * 500_000 + b"]" * 500_000 + b"}"):
        status, text = post(front, body)
        assert (status, "nested deeper" in text) == (400, True), text


def test_700000_chunks_of_one_byte_are_refused(unharmed, front) -> None:
    for headers in ({}, {"expect": "100-continue"}):
        chunks = b"1\r\n \r\n" * 700_000 + b"0\r\n\r\n"
        status, _ = post(front, chunks, **{"transfer-encoding": "chunked", "content-length": "", **headers})
        assert status == 411


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:80"},
    ],
)
def test_a_web_page_of_another_origin_is_refused_without_preflight(unharmed, front, headers: dict[str, str]) -> None:
    status, text = post(front, json.dumps(as_json()).encode(), **{"content-type": "text/plain", **headers})
    assert status == 403, text


@pytest.mark.parametrize("name", ["JPEG", "FRAME_INDEX"])
def test_classification_is_refused(unharmed, front, name: str) -> None:
    request = valid()
    request.outputs.add(name=name).parameters["classification"].int64_param = 1
    assert "classification" in refused(front, request)
    body = as_json() | {"outputs": [{"name": name, "parameters": {"classification": 1, "binary_data": True}}]}
    status, text = post(front, json.dumps(body).encode())
    assert (status, "classification" in text) == (400, True), text


@pytest.mark.parametrize("region", ["lipsync", "../../etc/passwd", ""])
def test_shared_memory_is_refused(unharmed, front, region: str) -> None:
    request = valid()
    request.inputs[0].parameters["shared_memory_region"].string_param = region
    assert "shared memory" in refused(front, request)
    request = valid()
    request.outputs.add(name="JPEG").parameters["shared_memory_region"].string_param = region
    assert "shared memory" in refused(front, request)
    status, text = post(front, json.dumps(as_json(parameters={"shared_memory_region": region})).encode())
    assert (status, "shared memory" in text) == (400, True), text


def test_inner_models_are_closed(unharmed, front) -> None:
    for model in ("lipsync", "mel_preprocess", "audio_encoder_int8", "lipsync_visual"):
        request = ModelInferRequest(model_name=model)
        with grpc_core.insecure_channel(front.grpc) as channel, pytest.raises(grpc_core.RpcError) as caught:
            channel.unary_unary(METHOD)(request.SerializeToString(), timeout=SECONDS)
        assert caught.value.code() is grpc_core.StatusCode.PERMISSION_DENIED
        assert post(front, b"{}", f"/v2/models/{model}/infer")[0] == 403


@pytest.mark.parametrize("name", ["mouth", "clock"])
def test_composite_gives_plain_footage_only(unharmed, front, through, demo, name: str) -> None:
    asked = {"avatar_key": [[demo[0]]], "footage_position": [[3]]}
    assert infer(through, "composite", **asked).JPEG.tolist() == [demo[1].footage_jpeg(3)]
    inner = {"mouth": np.zeros((1, 320, 320, 3), np.uint8), "clock": np.zeros(3, np.int64)}
    assert name in bad.refused(through, "composite", {**asked, name: inner[name]})


@pytest.mark.parametrize("case", [*bad.BAD])
def test_bad_values_get_the_servers_own_sentences(unharmed, through, case: str) -> None:
    inputs, sentence = bad.BAD[case]
    bad.matches(sentence, bad.refused(through, "lipsync_ensemble", inputs))


@pytest.mark.parametrize("case", [*bad.BAD_VISUAL])
def test_bad_visual_values_get_the_servers_own_sentences(unharmed, through, case: str) -> None:
    inputs, sentence = bad.BAD_VISUAL[case]
    bad.matches(sentence, bad.refused(through, "lipsync_visual_ensemble", inputs))


def test_bytes_that_are_no_request_are_refused(unharmed, front) -> None:
    for data in (b"\xff" * 46, b"\x0a", bytes(1000)):
        assert "cannot be parsed" in refused(front, data)
    for body in (b"", b"\xff", b"{", b"null", b'{"inputs": 3}', b'{"inputs": [[]]}', b"1" * 5000):
        assert post(front, body)[0] == 400


def test_random_changes_of_a_request_are_refused_or_answered(unharmed, front) -> None:
    random, good = np.random.default_rng(4), valid().SerializeToString()
    allowed = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"}
    with grpc_core.insecure_channel(front.grpc) as channel:
        call = channel.unary_unary(METHOD)
        for _ in range(300):
            data = bytearray(good[: random.integers(20, len(good) + 1)])
            for _ in range(random.integers(1, 4)):
                data[random.integers(0, 60) % len(data)] = random.integers(0, 256)
            try:
                call(bytes(data), timeout=SECONDS)
            except grpc_core.RpcError as error:
                assert error.code().name in allowed, (bytes(data[:80]), error)


def test_packed_bodies_are_refused(unharmed, front, through) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert post(front, bomb, **{"content-encoding": "gzip"})[0] == 415
    tensor = grpc.InferInput("AUDIO", [5_000_000], "FP32").set_data_from_numpy(np.zeros(5_000_000, np.float32))
    for algorithm in ("gzip", "deflate"):
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*compressed"):
            through.infer("lipsync_ensemble", [tensor], compression_algorithm=algorithm, client_timeout=SECONDS)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(unharmed, front) -> None:
    assert post(front, b"{}", **{"content-length": str(10**12)})[0] == 413
    assert post(front, b"{}", **{"content-length": "9" * 18})[0] == 413
    assert post(front, b" " * (9 << 20))[0] == 413  # as JSON


def test_a_message_that_is_too_large_is_refused(unharmed, front) -> None:
    options = [("grpc.max_send_message_length", -1)]
    with (
        grpc_core.insecure_channel(front.grpc, options=options) as channel,
        pytest.raises(grpc_core.RpcError) as caught,
    ):
        channel.unary_unary(METHOD)(bytes(121 << 20), timeout=SECONDS)
    assert caught.value.code() is grpc_core.StatusCode.RESOURCE_EXHAUSTED


def test_large_requests_that_are_refused_leave_no_memory(unharmed, server, front) -> None:
    """By the gateway, and by a stage: neither keeps them, nor does Triton for reuse."""

    def private_mb() -> dict[str, int]:
        pids = {"gateway": front.process.pid, "triton": server.pid}
        lines = {name: Path(f"/proc/{pid}/status").read_text() for name, pid in pids.items()}
        return {name: int(text.partition("RssAnon:")[2].split()[0]) >> 10 for name, text in lines.items()}

    before = private_mb()
    for minutes in (31, 30):
        request = valid()
        request.inputs[0].shape[0] = minutes * 60 * 16_000
        request.raw_input_contents[0] = bytes(4 * request.inputs[0].shape[0])
        request.inputs.add(name="FRAME_COUNT", datatype="INT32", shape=[1])
        request.raw_input_contents.append(b"\xff" * 4)
        for _ in range(3):
            refused(front, request)
    deadline = time.monotonic() + SECONDS
    while (now := private_mb())["gateway"] > before["gateway"] + 150:  # the last one, 110 MB, may stay until the next
        assert time.monotonic() < deadline, (before, now)
        time.sleep(0.1)
    assert now["triton"] < before["triton"] + 200, (before, now)


def test_json_without_a_binary_output_is_told_what_to_ask_for(unharmed, front) -> None:
    status, text = post(front, json.dumps(as_json() | {"outputs": [{"name": "JPEG"}]}).encode())
    assert (status, "binary_data" in text) == (400, True)
    assert post(front, json.dumps({"inputs": as_json()["inputs"]}).encode())[0] == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/repository/index", 403),
        ("/v2/repository/models/lipsync_ensemble/load", 403),
        ("/v2/repository/models/lipsync_ensemble/unload", 403),
        ("/v2/systemsharedmemory/region/x/register", 403),
        ("/v2/cudasharedmemory/status", 403),
        ("/v2/trace/setting", 403),
        ("/v2/logging", 403),
        ("/v2/models/..%2f..%2fx/infer", 403),
        ("/v2/models/%00/infer", 400),
        ("/v2/models/lipsync_ensemble/versions/-1/infer", 400),
        ("/other", 404),
    ],
)
def test_other_http_calls_are_closed(unharmed, front, path: str, status: int) -> None:
    assert post(front, json.dumps(as_json()).encode(), path)[0] == status
