"""HTTP requests before they become gRPC's: bounded JSON, exact tensors, no strangers' pages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from tritonclient.grpc.service_pb2 import ModelInferResponse

from lipsync_server.gateway import bounded_json, checks
from lipsync_server.gateway.contract import Contract, Tensor
from lipsync_server.gateway.http_guard import Guard
from lipsync_server.gateway.http_tensors import as_http, as_request
from lipsync_server.gateway.messages import encoded
from lipsync_server.gateway.metrics import Metrics
from lipsync_server.gateway.refusal import Refused

CONTRACT = Contract(
    "anna",
    {
        "AUDIO": Tensor("FP32", (-1,), 100),
        "AUDIO_END": Tensor("BOOL", (1,), 32),
        "COUNT": Tensor("INT32", (1,), 32),
        "VISUAL": Tensor("FP32", (-1, 2, 2), 32),
    },
    {"JPEG": "BYTES", "FRAME_INDEX": "INT64"},
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(fields: Any, tail: bytes = b"") -> Any:
    head = json.dumps(fields).encode()
    return as_request("anna", "", CONTRACT, head + tail, len(head))


def asked(tensor: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"inputs": [tensor], "parameters": {"binary_data_output": True}, **fields}


def refused(fields: Any, tail: bytes = b"") -> str:
    with pytest.raises(Refused) as caught:
        read(fields, tail)
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert len(caught.value.sentence) < 400
    return caught.value.sentence


@given(json_values)
def test_any_json_that_is_not_too_deep_is_parsed_as_python_does(value: Any) -> None:
    text = json.dumps(value).encode()
    try:
        assert bounded_json.parse(text) == json.loads(text)
    except Refused as refusal:
        assert "nested" in refusal.sentence


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        bounded_json.parse(data)
    except Refused as refusal:
        assert refusal.code.name == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 500_000,
        b'{"a":' * 500_000,
        b"[" * 17 + b"]" * 17,
        b"[" + b"[]," * 100_000 + b"[]]",
        b'["' + b"\\\\" * 200_000 + b'"]',
        b"NaN",
        b"[Infinity]",
        b"9" * 5000,
        b"",
    ],
)
def test_json_without_bounds_is_refused(text: bytes) -> None:
    with pytest.raises(Refused):
        bounded_json.parse(text)


def test_brackets_in_texts_do_not_count() -> None:
    assert bounded_json.parse(json.dumps(["[" * 100, '\\"[' * 50]).encode()) == ["[" * 100, '\\"[' * 50]
    assert bounded_json.parse(b"[" * 16 + b"]" * 16)
    assert len(bounded_json.parse(json.dumps([0.5] * 100_000).encode())) == 100_000


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=50))
def test_json_values_are_the_tensors_bytes(values: list[float]) -> None:
    made = read(asked({"name": "AUDIO", "datatype": "FP32", "shape": [len(values)], "data": values}))
    assert list(made.request.raw_input_contents) == [np.array(values, np.float32).tobytes()]
    checks.check(made.request, CONTRACT)


def test_nested_lists_are_flat() -> None:
    nested = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    made = read(asked({"name": "VISUAL", "datatype": "FP32", "shape": [2, 2, 2], "data": nested.tolist()}))
    assert list(made.request.raw_input_contents) == [nested.tobytes()]


def test_binary_data_follows_the_json() -> None:
    audio = np.arange(3, dtype=np.float32)
    tensors = [
        {"name": "AUDIO", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12}},
        {"name": "AUDIO_END", "datatype": "BOOL", "shape": [1], "data": [True]},
        {"name": "COUNT", "datatype": "INT32", "shape": [1], "parameters": {"binary_data_size": 4}},
    ]
    made = read(
        {"inputs": tensors, "outputs": [{"name": "JPEG", "parameters": {"binary_data": True}}]},
        audio.tobytes() + b"\1\0\0\0",
    )
    assert list(made.request.raw_input_contents) == [audio.tobytes(), b"\1", b"\1\0\0\0"]
    assert made.binary == {"JPEG"}
    checks.check(made.request, CONTRACT)


AUDIO = {"name": "AUDIO", "datatype": "FP32", "shape": [2]}


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        ({**AUDIO, "data": [1]}, "has 1 values"),
        ({**AUDIO, "data": ["1", "2"]}, "no FP32"),
        ({**AUDIO, "data": [1, None]}, "no FP32"),
        ({**AUDIO, "data": [1, True]}, "no FP32"),
        ({**AUDIO, "data": [1, [2]]}, "no FP32"),
        ({**AUDIO, "data": [[1], 2]}, "beside lists"),
        ({**AUDIO, "data": [10**400, 1]}, "do not fit"),
        ({**AUDIO, "data": "xx"}, "must be an array"),
        (AUDIO, "data once"),
        ({**AUDIO, "data": [1, 2], "parameters": {"binary_data_size": 8}}, "data once"),
        ({**AUDIO, "parameters": {"binary_data_size": 9}}, "binary_data_size 9"),
        ({**AUDIO, "parameters": {"binary_data_size": -1}}, "binary_data_size -1"),
        ({**AUDIO, "parameters": {"binary_data_size": 2**62}}, "binary_data_size"),
        ({**AUDIO, "parameters": {"binary_data_size": True}}, "binary_data_size True"),
        ({**AUDIO, "parameters": {"shared_memory_region": "x"}, "data": [1, 2]}, "shared memory"),
        ({**AUDIO, "shape": [2**62], "data": []}, "AUDIO has"),
        ({**AUDIO, "shape": [2**64], "data": []}, "the shape of 'AUDIO'"),
        ({**AUDIO, "shape": [-1], "data": []}, "the shape of 'AUDIO'"),
        ({**AUDIO, "shape": [1.5], "data": [1]}, "the shape of 'AUDIO'"),
        ({**AUDIO, "shape": [1] * 9, "data": [1]}, "the shape of 'AUDIO'"),
        ({**AUDIO, "shape": None}, "must be an array"),
        ({**AUDIO, "name": 3}, "name must be a text"),
        ({**AUDIO, "name": "AUDOI", "data": []}, "unexpected inference input 'AUDOI'"),
        ({**AUDIO, "datatype": "BYTES", "data": ["a", "b"]}, "data-type is 'BYTES'"),
        ({"name": "COUNT", "datatype": "INT32", "shape": [1], "data": [2**31]}, "do not fit"),
        ({"name": "COUNT", "datatype": "INT32", "shape": [1], "data": [1.5]}, "no INT32"),
        ({"name": "AUDIO_END", "datatype": "BOOL", "shape": [1], "data": [1]}, "no BOOL"),
        ("AUDIO", "an input must be an object"),
    ],
)
def test_tensors_that_are_wrong_are_refused(tensor: Any, sentence: str) -> None:
    assert sentence in refused(asked(tensor), bytes(8) if "binary_data_size" in str(tensor) else b"")


def test_what_is_wrong_beside_the_tensors_is_refused() -> None:
    good = {**AUDIO, "data": [1, 2]}
    assert "1 bytes after" in refused(asked(good), b"x")
    assert "5 inputs" in refused({"inputs": [good] * 5})
    assert "'sequence_id'" in refused(asked(good, parameters={"sequence_id": 1}))
    assert "'timeout'" in refused(asked(good, parameters={"timeout": "1"}))
    assert "classification" in refused(asked(good, outputs=[{"name": "JPEG", "parameters": {"classification": 1}}]))
    assert "binary_data" in refused({"inputs": [good]})
    assert "binary_data" in refused({"inputs": [good], "outputs": [{"name": "JPEG"}]})
    assert "true or false" in refused(asked(good, outputs=[{"name": "JPEG", "parameters": {"binary_data": 1}}]))
    assert "id must be a text" in refused(asked(good, id=5))
    with pytest.raises(Refused, match="twice"):
        checks.check(read(asked(good, inputs=[good, good])).request, CONTRACT)


def test_an_answer_is_json_before_its_binary_outputs() -> None:
    answer = ModelInferResponse(model_name="anna", model_version="1", id="7")
    answer.outputs.add(name="JPEG", datatype="BYTES", shape=[1])
    answer.outputs.add(name="FRAME_INDEX", datatype="INT64", shape=[2])
    answer.raw_output_contents.extend([b"\3\0\0\0abc", np.arange(2).tobytes()])
    body, size = as_http(encoded(answer), {"JPEG"})
    assert json.loads(body[:size]) == {
        "model_name": "anna",
        "model_version": "1",
        "id": "7",
        "outputs": [
            {"name": "JPEG", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 7}},
            {"name": "FRAME_INDEX", "datatype": "INT64", "shape": [2], "data": [0, 1]},
        ],
    }
    assert body[size:] == b"\3\0\0\0abc"
    body, size = as_http(encoded(answer), None)
    assert body[size:] == b"\3\0\0\0abc" + np.arange(2).tobytes()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "["}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:8001"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": "identity"}, 200),
        ({"transfer-encoding": "chunked"}, 411),
        ({"content-length": "1001"}, 413),
        ({"content-length": "9" * 100}, 413),
        ({"content-length": "1000"}, 200),
    ],
)
def test_the_guard_lets_through_what_this_machine_asks(headers: dict[str, str], status: int) -> None:
    assert ask("127.0.0.1", {"host": "127.0.0.1:8000", **headers}) == status


def test_on_a_public_address_any_host_name_may_be_asked() -> None:
    assert ask("0.0.0.0", {"host": "talk.example"}) == 200
    assert ask("0.0.0.0", {"host": "talk.example", "origin": "http://x"}) == 403


def ask(bind: str, headers: dict[str, str]) -> int:
    """The status of a request to a guarded application, which may be asked from no other origin."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request"}

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": pairs}
    asyncio.run(Guard(PlainTextResponse("in"), bind, 1000, Metrics())(scope, receive, send))
    assert b"access-control-allow-origin" not in dict(sent[0]["headers"])
    return sent[0]["status"]
