"""What is read of an answer without parsing its frames."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.grpc.service_pb2 import ModelInferResponse, ModelMetadataResponse, ModelStreamInferResponse
from tritonclient.utils import serialize_byte_tensor

from lipsync_server.gateway.messages import as_json, encoded, frames_in, streamed
from lipsync_server.gateway.tensors import outputs_of, request_of


def answer(frames: list[bytes], request_id: str = "") -> bytes:
    made = ModelInferResponse(model_name="anna", model_version="1", id=request_id)
    made.outputs.add(name="TIMINGS_MS", datatype="FP32", shape=[4])
    made.outputs.add(name="JPEG", datatype="BYTES", shape=[len(frames)])
    made.raw_output_contents.append(np.arange(4, dtype=np.float32).tobytes())
    made.raw_output_contents.append(serialize_byte_tensor(np.array(frames, object)).item() if frames else b"")
    made.parameters["x"].double_param = 2.0
    return encoded(made)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), st.text(max_size=200))
def test_frames_are_counted_and_an_answer_fits_into_a_stream(frames: list[bytes], request_id: str) -> None:
    data = answer(frames, request_id)
    assert frames_in(data) == len(frames)
    wrapped = ModelStreamInferResponse.FromString(streamed(data))
    assert (encoded(wrapped.infer_response), wrapped.error_message) == (
        encoded(ModelInferResponse.FromString(data)),
        "",
    )
    outputs = outputs_of(data)
    assert outputs["JPEG"].tolist() == frames
    assert outputs["TIMINGS_MS"].tolist() == [0, 1, 2, 3]


def test_patches_are_counted_as_frames() -> None:
    made = ModelInferResponse.FromString(answer([]))
    made.outputs.add(name="PATCH", datatype="BYTES", shape=[3])
    assert frames_in(encoded(made)) == 3


def test_an_answer_without_frames_has_none() -> None:
    assert frames_in(b"") == 0
    assert frames_in(encoded(ModelInferResponse(model_name="anna"))) == 0


def test_fields_of_fixed_size_are_passed_over() -> None:
    unknown = (
        b"\xfd\x7f\x01\x02\x03\x04" + b"\xf9\x7f" + b"\x2a" * 8 + b"\xf8\x7f\x80\x01"
    )  # 32 bits, 64 bits, a varint
    assert frames_in(unknown + answer([b"a", b"b"])) == 2


def test_a_request_has_its_arrays() -> None:
    made = request_of("anna", AUDIO=np.ones(3, np.float32), AUDIO_END=np.array([True]))
    assert [(one.name, one.datatype, list(one.shape)) for one in made.inputs] == [
        ("AUDIO", "FP32", [3]),
        ("AUDIO_END", "BOOL", [1]),
    ]
    assert list(made.raw_input_contents) == [np.ones(3, np.float32).tobytes(), b"\x01"]


def test_json_has_numbers_names_and_defaults() -> None:
    metadata = ModelMetadataResponse(name="anna", versions=["1"])
    metadata.inputs.add(name="AUDIO", datatype="FP32", shape=[-1])
    assert as_json(metadata) == {
        "name": "anna",
        "versions": ["1"],
        "platform": "",
        "inputs": [{"name": "AUDIO", "datatype": "FP32", "shape": [-1]}],
        "outputs": [],
    }
    config = ModelConfig(name="anna")
    config.parameters["a"].string_value = "b"
    config.input.add(data_type="TYPE_FP32", dims=[2**40])
    found = as_json(config)
    assert found["parameters"] == {"a": {"string_value": "b"}}
    assert (found["input"][0]["data_type"], found["input"][0]["dims"]) == ("TYPE_FP32", [2**40])
    assert found["max_batch_size"] == 0
    assert "ensemble_scheduling" not in found and "version_policy" not in found
