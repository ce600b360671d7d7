"""The monolithic API: a client that was generated from its description alone gets frames.

The generated code runs in a process of its own, because one process can hold the messages of that name only once.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_client import add_avatar, remove_avatar

from gateway_process import Gateway, gateway
from lipsync_client import Client, Control
from speech import real_speech

SECONDS = 120
SPEECH = real_speech()[8_000 : 8_000 + 40 * 640]
MESSAGES = """
CompositeBatchRequest: model_id 1 string; visual_frames 2 bytes; raw_audio 3 bytes; audio_features 4 bytes;
  batch_size 5 int32; start_frame_idx 6 int32; sample_rate 7 int32
CompositeBatchResponse: composited_frames 1 repeated bytes; inference_time_ms 2 float; composite_time_ms 3 float;
  total_time_ms 4 float; audio_processing_ms 5 float; model_loaded 6 bool; model_load_time_ms 7 float;
  success 8 bool; error 9 string; gpu_id 10 int32
ListModelsRequest:
ModelInfo: model_id 1 string; loaded 2 bool; gpu_id 3 int32; memory_mb 4 int64; request_count 5 int32;
  avg_inference_ms 6 float
ListModelsResponse: models 1 repeated ModelInfo
LoadModelRequest: model_id 1 string; preferred_gpu 2 int32
LoadModelResponse: success 1 bool; error 2 string; gpu_id 3 int32; load_time_ms 4 float
UnloadModelRequest: model_id 1 string
UnloadModelResponse: success 1 bool; error 2 string
GetModelStatsRequest:
ModelStats: model_id 1 string; loaded 2 bool; gpu_id 3 int32; memory_mb 4 int64; request_count 5 int32;
  total_inference_ms 6 int64; avg_inference_ms 7 float; last_used_timestamp 8 int64
GetModelStatsResponse: models 1 repeated ModelStats
HealthRequest:
HealthResponse: healthy 1 bool; loaded_models 2 int32; max_models 3 int32; gpu_ids 4 repeated int32;
  gpu_memory_used_gb 5 repeated float
"""
CALLS = {"InferBatchComposite": "CompositeBatch", "ListModels": "ListModels", "LoadModel": "LoadModel"}
CALLS |= {"UnloadModel": "UnloadModel", "GetModelStats": "GetModelStats", "Health": "Health"}
CLIENT = """
import base64, json, sys
import grpc
from google.protobuf import json_format
sys.path.insert(0, sys.argv[1])
import described_pb2, described_pb2_grpc

options = [("grpc.max_send_message_length", 100 << 20), ("grpc.max_receive_message_length", 100 << 20)]
with grpc.insecure_channel(sys.argv[2], options=options) as channel:
    stub = described_pb2_grpc.MonolithicServiceStub(channel)
    for line in sys.stdin:
        call, kind, values = json.loads(line)
        request = json_format.ParseDict(values, getattr(described_pb2, kind + "Request")())
        answer = getattr(stub, call)(request, timeout=100)
        print(json_format.MessageToJson(answer, preserving_proto_field_name=True, indent=None,
              always_print_fields_with_no_presence=True), flush=True)
"""


@pytest.fixture(scope="module")
def stubs(tmp_path_factory) -> Path:
    """A folder with code that protoc made of MESSAGES and CALLS."""
    folder = tmp_path_factory.mktemp("stubs")
    lines = ['syntax = "proto3";', "package monolithic;", "service MonolithicService {"]
    lines += [f"rpc {call}({kind}Request) returns ({kind}Response);" for call, kind in CALLS.items()] + ["}"]
    for name, fields in re.findall(r"^(\w+):((?:.*\n  )*.*)$", MESSAGES, re.MULTILINE):
        lines.append(f"message {name} {{")
        for field in filter(None, map(str.split, fields.split(";"))):
            lines.append(f"{' '.join(field[2:])} {field[0]} = {field[1]};")
        lines.append("}")
    (folder / "described.proto").write_text("\n".join(lines))
    options = [f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}", "described.proto"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options], check=True, timeout=SECONDS)
    return folder


@pytest.fixture(scope="module")
def front(server, tmp_path_factory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with gateway(folder, server.grpc_url, key=server.control_key, aliases={"sanders": "demo"}) as running:
        running.wait()
        yield running


@pytest.fixture
def connect(stubs, front) -> Iterator[Callable[[], Callable[..., dict[str, Any]]]]:
    """`connect()` is a client with a connection of its own: `call("Health")`, fields as keywords."""
    processes = []

    def connected() -> Callable[..., dict[str, Any]]:
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(stubs), front.monolithic],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        processes.append(process)

        def call(name: str, **values: Any) -> dict[str, Any]:
            for field in ("raw_audio", "visual_frames", "audio_features"):
                if field in values:
                    values[field] = encoded(values[field])
            process.stdin.write(json.dumps([name, CALLS[name], values]) + "\n")
            return json.loads(process.stdout.readline())

        return call

    yield connected
    for process in processes:
        process.kill()
        process.communicate(timeout=SECONDS)


@pytest.fixture
def call(connect) -> Callable[..., dict[str, Any]]:
    return connect()


def encoded(values: np.ndarray | bytes) -> str:
    return base64.b64encode(values if isinstance(values, bytes) else values.astype("<f4").tobytes()).decode()


def frames(answer: dict[str, Any]) -> list[bytes]:
    assert answer["success"], answer["error"]
    return [base64.b64decode(frame) for frame in answer["composited_frames"]]


@pytest.fixture
def expected(server) -> Iterator[Callable[..., list[bytes]]]:
    """`expected(audio, start, first, count, footage)`: the server's frames of a slice of speech before silence."""
    with Client(server.grpc_url, timeout=SECONDS) as client:

        def infer(audio: np.ndarray, start: int, first: int, count: int, footage: int) -> list[bytes]:
            stop = client.timeline().span(first, count)[1]
            audio = np.pad(audio, (0, max(0, stop - start - len(audio))))[: stop - start]
            return list(
                client.infer(
                    audio,
                    audio_start=start,
                    audio_end=False,
                    first_frame=first,
                    frame_count=count,
                    footage_start=footage,
                ).frames
            )

        yield infer


def test_640_ms_of_audio_give_24_jpegs_as_in_the_requirements(call, expected) -> None:
    audio = SPEECH[:10_240]
    answer = call("InferBatchComposite", model_id="demo", raw_audio=audio, batch_size=24, sample_rate=16000)
    assert len(frames(answer)) == 24
    assert all(frame[:2] == b"\xff\xd8" and frame[-2:] == b"\xff\xd9" for frame in frames(answer))
    assert frames(answer) == expected(audio, 0, 0, 24, 0)
    assert (answer["model_loaded"], answer["gpu_id"]) == (False, -1)
    assert answer["total_time_ms"] >= answer["inference_time_ms"] > 0 < answer["composite_time_ms"]


def test_an_alias_is_the_avatar_and_visual_frames_are_not_read(call) -> None:
    asked = {"raw_audio": SPEECH[:2560], "batch_size": 4, "start_frame_idx": 3}
    plain = frames(call("InferBatchComposite", model_id="demo", **asked))
    assert frames(call("InferBatchComposite", model_id="sanders", visual_frames=b"x" * 1000, **asked)) == plain


def test_audio_of_the_frames_alone_begins_at_the_first_frame(call, expected) -> None:
    answer = call("InferBatchComposite", model_id="demo", raw_audio=SPEECH[:2560], batch_size=4, start_frame_idx=9)
    assert frames(answer) == expected(SPEECH[:2560], 0, 0, 4, 9)


def test_audio_with_15_frames_more_begins_8_frames_earlier(call, expected) -> None:
    audio = SPEECH[: 19 * 640]
    answer = call("InferBatchComposite", model_id="demo", raw_audio=audio, batch_size=4, start_frame_idx=20)
    assert frames(answer) == expected(audio, 0, 8, 4, 20)
    answer = call("InferBatchComposite", model_id="demo", raw_audio=audio, batch_size=4, start_frame_idx=3)
    assert frames(answer) == expected(audio, 0, 3, 4, 3)


def test_pieces_that_follow_each_other_have_their_context(connect, expected) -> None:
    call, stranger = connect(), connect()
    pieces = [SPEECH[at : at + 8 * 640] for at in range(0, 32 * 640, 8 * 640)]
    for number, piece in enumerate(pieces):
        first = 8 * number
        start = max(0, first * 640 - 6_321)
        asked = {"model_id": "demo", "raw_audio": piece, "batch_size": 8, "start_frame_idx": 100 + first}
        heard = expected(SPEECH[start : (first + 8) * 640], start, first, 8, 100 + first)
        assert frames(call("InferBatchComposite", **asked)) == heard
        assert frames(call("InferBatchComposite", **asked)) == heard  # sent again
    alone = frames(stranger("InferBatchComposite", **asked))  # another's speech is not mine
    assert alone == expected(piece, 0, 0, 8, 124) != heard


def test_other_rates_are_resampled(call) -> None:
    at_32k = np.repeat(SPEECH[:5120], 2)
    answer = call("InferBatchComposite", model_id="demo", raw_audio=at_32k, batch_size=8, sample_rate=32_000)
    assert len(frames(answer)) == 8


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"model_id": ""}, "model_id is empty"),
        ({"batch_size": 0}, "batch_size is 0: it must be from 1 to 32"),
        ({"batch_size": 33}, "batch_size is 33"),
        ({"raw_audio": b""}, "raw_audio is missing"),
        ({"raw_audio": b"", "audio_features": bytes(4 * 8192)}, "audio_features is not taken"),
        ({"raw_audio": b"12345"}, "raw_audio has 5 bytes"),
        ({"raw_audio": np.array([np.nan])}, "not finite"),
        ({"start_frame_idx": -1}, "start_frame_idx is -1"),
        ({"sample_rate": -5}, "sample_rate is -5"),
        ({"model_id": "nobody"}, "nobody"),
        ({"model_id": "../x"}, "name"),
    ],
)
def test_what_is_wrong_is_an_answer_with_a_sentence(call, asked: dict[str, Any], sentence: str) -> None:
    answer = call("InferBatchComposite", **{"model_id": "demo", "raw_audio": SPEECH[:640], "batch_size": 1, **asked})
    assert (answer["success"], answer["composited_frames"]) == (False, [])
    assert sentence in answer["error"]


def test_figures_are_true(call) -> None:
    def count() -> int:
        (demo,) = (one for one in call("GetModelStats")["models"] if one["model_id"] == "demo")
        assert demo["loaded"] and demo["memory_mb"] != "500" and int(demo["total_inference_ms"]) > 0
        assert int(demo["last_used_timestamp"]) > 1_700_000_000
        return demo["request_count"]

    before = count()
    frames(call("InferBatchComposite", model_id="demo", raw_audio=SPEECH[:640], batch_size=1))
    for _ in range(100):  # Triton counts a moment after it has answered
        if count() > before:
            break
    assert count() > before
    health = call("Health")
    assert (health["healthy"], health["max_models"]) == (True, 40)
    assert health["loaded_models"] >= 1
    assert [one["loaded"] for one in call("ListModels")["models"] if one["model_id"] == "demo"] == [True]


def test_loading_an_unknown_model_is_no_success(call) -> None:
    for name in ("LoadModel", "UnloadModel"):
        answer = call(name, model_id="nobody")
        assert not answer["success"]
        assert "nobody" in answer["error"]


def test_an_avatar_is_loaded_used_and_unloaded(server, front, call) -> None:
    add_avatar(server.repository, "mona")
    try:
        asked = {"raw_audio": SPEECH[:2560], "batch_size": 4}
        demo = frames(call("InferBatchComposite", model_id="demo", **asked))
        answer = call("LoadModel", model_id="mona", preferred_gpu=-1)
        assert (answer["success"], answer["gpu_id"]) == (True, -1), answer
        first = call("InferBatchComposite", model_id="mona", **asked)
        assert (frames(first), first["model_loaded"]) == (demo, False)
        assert call("UnloadModel", model_id="mona")["success"]
        (mona,) = (one for one in call("ListModels")["models"] if one["model_id"] == "mona")
        assert not mona["loaded"]
        again = call("InferBatchComposite", model_id="mona", **asked)  # loaded on demand
        assert (frames(again), again["model_loaded"]) == (demo, True)
        assert again["model_load_time_ms"] > 0
        with Control(front.grpc, key=server.control_key) as control:  # another way, just after its last request
            control.unload("mona")
            assert not control.ready("mona")
    finally:
        with Control(server.grpc_url, key=server.control_key) as control:
            control.unload("mona")
        remove_avatar(server.repository, "mona")


def test_on_demand_can_be_switched_off(server, stubs, tmp_path) -> None:
    add_avatar(server.repository, "nina")
    try:
        with gateway(tmp_path, server.grpc_url, key=server.control_key, on_demand=False) as front:
            front.wait()
            asked = {"model_id": "nina", "batch_size": 1, "raw_audio": encoded(SPEECH[:640])}
            command = [sys.executable, "-c", CLIENT, str(stubs), front.monolithic]
            lines = json.dumps(["InferBatchComposite", "CompositeBatch", asked])
            printed = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, timeout=SECONDS)
            assert "nina" in json.loads(printed.stdout)["error"]
    finally:
        remove_avatar(server.repository, "nina")


def test_without_the_control_key_nothing_is_loaded(server, stubs, tmp_path) -> None:
    with gateway(tmp_path, server.grpc_url) as front:
        front.wait()
        command = [sys.executable, "-c", CLIENT, str(stubs), front.monolithic]
        asked = [["LoadModel", "LoadModel", {"model_id": "demo"}], ["ListModels", "ListModels", {}]]
        lines = "\n".join(map(json.dumps, asked))
        printed = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, timeout=SECONDS)
        load, listed = map(json.loads, printed.stdout.splitlines())
        assert (load["success"], "control key" in load["error"]) == (False, True)
        assert "demo" in [one["model_id"] for one in listed["models"]]
