"""One caller's silence, haste or number of requests is no other's trouble."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Iterator

import grpc as grpc_core
import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.utils import InferenceServerException

from conftest import infer
from gateway_process import Gateway, gateway
from lipsync_client import Client
from speech import real_speech

SPEECH = real_speech()[:32_000]
SECONDS = 60
METHOD = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
INFER = "POST /v2/models/lipsync_ensemble/infer HTTP/1.1"


@pytest.fixture(scope="module")
def front(server, tmp_path_factory) -> Iterator[Gateway]:
    """A gateway with small limits."""
    small = {"header_timeout_s": 0.3, "body_timeout_s": 0.3, "max_reading_mb": 1}
    small |= {"max_open_per_caller": 2, "max_streams_per_caller": 1, "max_connections_per_caller": 20}
    with gateway(tmp_path_factory.mktemp("gateway"), server.grpc_url, **small) as running:
        running.wait()
        yield running


@contextlib.contextmanager
def connected(front: Gateway, begin: bytes = b"") -> Iterator[socket.socket]:
    host, port = front.http.split(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        connection.sendall(begin)
        yield connection


def request(front: Gateway, length: int) -> bytes:
    return f"{INFER}\r\nHost: {front.http}\r\nContent-Length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize("begin", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "])
def test_a_connection_without_whole_headers_is_closed(front, begin: bytes) -> None:
    with connected(front, begin) as connection, contextlib.suppress(ConnectionResetError):
        assert connection.recv(100) == b""


def test_headers_that_stop_in_a_second_request_close_the_connection_too(front) -> None:
    whole = f"GET /healthz HTTP/1.1\r\nHost: {front.http}\r\n\r\n".encode()
    with connected(front, whole) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(whole[:-2])
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""


def test_a_body_that_stops_is_refused(front) -> None:
    with connected(front, request(front, 1000) + b"{") as connection:
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 400")


def test_bodies_that_are_read_at_once_are_bounded(front) -> None:
    with connected(front, request(front, 900_000)), connected(front, request(front, 900_000)) as second:
        assert second.recv(100).startswith(b"HTTP/1.1 503")


def test_a_caller_has_only_so_many_connections(front) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connected(front))
        last = stack.enter_context(connected(front))
        with contextlib.suppress(ConnectionResetError):
            assert last.recv(100) == b""


def long_request() -> ModelInferRequest:
    """32 frames, which take a while."""
    asked = ModelInferRequest(model_name="lipsync_ensemble")
    for name, dtype, value in (("AUDIO", "FP32", SPEECH), ("FRAME_COUNT", "INT32", np.array([32], np.int32))):
        asked.inputs.add(name=name, datatype=dtype, shape=value.shape)
        asked.raw_input_contents.append(value.tobytes())
    return asked


def test_a_caller_has_only_so_many_open_requests_and_is_told_to_come_back(front) -> None:
    data = long_request().SerializeToString()
    with grpc_core.insecure_channel(front.grpc) as channel:
        calls = [channel.unary_unary(METHOD).future(data, timeout=SECONDS) for _ in range(2)]
        deadline = time.monotonic() + SECONDS
        while front.metric("lipsync_gateway_open_requests") < 2:
            assert time.monotonic() < deadline
        with grpc.InferenceServerClient(front.grpc) as client, pytest.raises(InferenceServerException) as caught:
            infer(client, "lipsync_ensemble", AUDIO=SPEECH, FRAME_COUNT=1)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        assert caught.value.message().startswith("[overloaded] 2 requests of this caller are open")
        body = json.dumps({"inputs": []}).encode()
        with connected(front, request(front, len(body)) + body) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 429")
        assert all(call.result() for call in calls)


def test_our_client_comes_back_when_it_was_too_much(front) -> None:
    with Client(front.grpc, timeout=SECONDS) as client:
        frames = list(client.render(SPEECH, chunk=5, in_flight=4))
    assert len(frames) == 50


def test_a_caller_has_only_so_many_streams(front) -> None:
    done = threading.Event()

    def nothing() -> Iterator[bytes]:
        done.wait(SECONDS)
        yield from ()

    with grpc_core.insecure_channel(front.grpc) as channel:
        stream = channel.stream_stream(STREAM)
        ended: queue.Queue[grpc_core.Future] = queue.Queue()
        streams = [stream(nothing(), timeout=SECONDS) for _ in range(3)]
        for one in streams:
            one.add_done_callback(ended.put)
        for _ in range(2):
            assert "overloaded" in ended.get(timeout=SECONDS).details()
        assert [one.done() for one in streams].count(False) == 1  # whichever came first
        done.set()


def test_a_caller_who_leaves_ends_his_request(front) -> None:
    asked = long_request()
    sizes = [len(raw) for raw in asked.raw_input_contents]
    inputs = [
        {"name": one.name, "datatype": one.datatype, "shape": [*one.shape], "parameters": {"binary_data_size": size}}
        for one, size in zip(asked.inputs, sizes, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = head + b"".join(asked.raw_input_contents)
    whole = request(front, len(body))[:-2] + f"Inference-Header-Content-Length: {len(head)}\r\n\r\n".encode() + body
    before = front.metric("lipsync_gateway_frames_total")
    with connected(front, whole):
        deadline = time.monotonic() + SECONDS
        while not front.metric("lipsync_gateway_upstream_open"):
            assert time.monotonic() < deadline
    while front.metric("lipsync_gateway_open_requests") or front.metric("lipsync_gateway_upstream_open"):
        assert time.monotonic() < deadline
    assert front.metric("lipsync_gateway_frames_total") == before


def test_ctrl_c_ends_it_while_requests_streams_and_connections_are_open(server, tmp_path) -> None:
    done = threading.Event()

    def nothing() -> Iterator[bytes]:
        done.wait(SECONDS)
        yield from ()

    with contextlib.ExitStack() as stack:
        with gateway(tmp_path, server.grpc_url) as front:
            front.wait()
            channel = stack.enter_context(grpc_core.insecure_channel(front.grpc))
            calls = [channel.unary_unary(METHOD).future(long_request().SerializeToString()) for _ in range(6)]
            channel.stream_stream(STREAM)(nothing())
            stack.enter_context(connected(front, request(front, 1000)))
            stack.enter_context(connected(front))
            while front.metric("lipsync_gateway_open_requests") < 6:
                time.sleep(0.01)
        assert {call.exception(SECONDS) and call.code().name for call in calls} <= {None, "UNAVAILABLE", "CANCELLED"}
        done.set()


def test_500_idle_connections_of_each_kind_cost_nobody_anything(server, tmp_path) -> None:
    with gateway(tmp_path, server.grpc_url) as front, contextlib.ExitStack() as stack:
        front.wait()
        for address in (front.http, front.grpc, front.monolithic):
            host, port = address.split(":")
            for _ in range(500):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=SECONDS))
        with Client(front.grpc, timeout=SECONDS) as client:
            assert len(list(client.render(SPEECH[:6_400]))) == 10
        assert front.get("/readyz")[0] == 200
