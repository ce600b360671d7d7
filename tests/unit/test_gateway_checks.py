"""The gateway's checks: what a request may be, and that nothing else passes."""

from __future__ import annotations

import math

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.grpc.service_pb2 import InferParameter, ModelInferRequest

from lipsync_mel import timeline
from lipsync_server.gateway import checks
from lipsync_server.gateway.contract import ITEM_SIZES, Contract
from lipsync_server.gateway.refusal import Refused

AUDIO, START, VISUAL = "AUDIO", "AUDIO_START", "VISUAL_FRAMES"


def config(**changes) -> ModelConfig:
    made = ModelConfig(name="anna", platform="ensemble", **changes)
    made.ensemble_scheduling.step.add(model_name="x")
    for name, dtype, dims in (
        (AUDIO, "TYPE_FP32", [-1]),
        (START, "TYPE_INT64", [1]),
        ("AUDIO_END", "TYPE_BOOL", [1]),
        (VISUAL, "TYPE_FP32", [-1, 6, 4, 4]),
    ):
        made.input.add(name=name, data_type=dtype, dims=dims)
    made.output.add(name="JPEG", data_type="TYPE_STRING", dims=[-1])
    return made


CONTRACT = Contract.of(config())


def request(**inputs: np.ndarray) -> ModelInferRequest:
    made = ModelInferRequest(model_name="anna")
    types = {"float32": "FP32", "int64": "INT64", "bool": "BOOL", "float64": "FP64"}
    for name, value in inputs.items():
        made.inputs.add(name=name, datatype=types[value.dtype.name], shape=value.shape)
        made.raw_input_contents.append(value.tobytes())
    return made


def good() -> ModelInferRequest:
    return request(AUDIO=np.zeros(8, np.float32), AUDIO_START=np.zeros(1, np.int64))


def refused(made: ModelInferRequest) -> str:
    with pytest.raises(Refused) as caught:
        checks.check(made, CONTRACT)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "\n" not in caught.value.sentence and len(caught.value.sentence) < 400
    return caught.value.sentence


def test_good_requests_pass_raw_and_typed() -> None:
    checks.check(good(), CONTRACT)
    checks.check(ModelInferRequest(model_name="anna"), CONTRACT)  # the stage says what is missing
    typed = ModelInferRequest(model_name="anna", id="x" * 256)
    typed.inputs.add(name=AUDIO, datatype="FP32", shape=[3]).contents.fp32_contents.extend([0.5] * 3)
    typed.inputs.add(name="AUDIO_END", datatype="BOOL", shape=[1]).contents.bool_contents.append(True)
    typed.outputs.add(name="JPEG")
    typed.parameters["timeout"].int64_param = 5
    checks.check(typed, CONTRACT)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), st.binary(max_size=64), st.booleans())
def test_a_tensor_passes_only_with_as_many_bytes_as_its_shape_says(shape: list[int], data: bytes, raw: bool) -> None:
    made = ModelInferRequest(model_name="anna")
    tensor = made.inputs.add(name=AUDIO, datatype="FP32", shape=shape)
    if raw:
        made.raw_input_contents.append(data)
    else:
        tensor.contents.fp32_contents.extend([0.0] * (len(data) // 4))
        data = data[: len(data) // 4 * 4]
    try:
        checks.check(made, CONTRACT)
    except Refused:
        return
    assert len(shape) == 1 and shape[0] >= 0
    assert math.prod(shape) * 4 == len(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_a_sound_request(data: bytes) -> None:
    try:
        made = checks.parsed(data)
        checks.check(made, CONTRACT)
    except Refused:
        return
    for position, tensor in enumerate(made.inputs):
        size = math.prod(tensor.shape) * ITEM_SIZES[tensor.datatype]
        if made.raw_input_contents:
            assert size == len(made.raw_input_contents[position])


@given(st.data())
def test_one_changed_field_of_a_good_request_never_passes_unsound(data: st.DataObject) -> None:
    encoded = bytearray(good().SerializeToString())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        made = checks.parsed(bytes(encoded))
        checks.check(made, CONTRACT)
    except Refused:
        return
    assert {tensor.name for tensor in made.inputs} <= set(CONTRACT.inputs)
    assert all(not tensor.parameters for tensor in made.inputs)


@pytest.mark.parametrize("size", [2**62, 2**40, 2**33, 2**61 + 1, timeline.MAX_SAMPLES + 1])
def test_sizes_that_overflow_are_told_as_the_stage_would(size: int) -> None:
    made = ModelInferRequest(model_name="anna")
    made.inputs.add(name=AUDIO, datatype="FP32", shape=[size])
    assert refused(made) == (
        f"AUDIO has {size} samples: at most {timeline.MAX_SAMPLES} (30 minutes) are allowed in a request"
    )


def test_rows_are_bounded() -> None:
    many = np.zeros((timeline.MAX_FRAMES + 1, 6, 4, 4), np.float32)
    checks.check(request(VISUAL_FRAMES=many[1:]), CONTRACT)
    assert "VISUAL_FRAMES has 33 frames" in refused(request(VISUAL_FRAMES=many))


@pytest.mark.parametrize("shape", [[-1], [8, 1], [], [2, 4], [1] * 9])
def test_other_shapes_are_refused(shape: list[int]) -> None:
    made = good()
    made.inputs[0].shape[:] = shape
    assert "unexpected shape for input 'AUDIO' for model 'anna'. Expected [-1], got [" in refused(made)


def test_other_types_are_refused() -> None:
    assert "'AUDIO' data-type is 'FP64'" in refused(request(AUDIO=np.zeros(8)))
    made = good()
    made.inputs[0].datatype = "x" * 1000
    assert "expects 'FP32'" in refused(made)


def test_data_that_is_missing_double_or_elsewhere_is_refused() -> None:
    made = good()
    made.raw_input_contents.pop()
    assert "raw_input_contents has 1 entries: it must have 2" in refused(made)
    made = good()
    made.raw_input_contents.append(b"")
    assert "it must have 2" in refused(made)
    made = good()
    made.inputs[0].contents.fp32_contents.append(1.0)
    assert "data twice" in refused(made)
    made = good()
    del made.raw_input_contents[:]
    assert "'AUDIO' has no data" in refused(made)
    made.inputs[0].contents.int64_contents.extend([0] * 8)
    assert "'AUDIO' is FP32, but its contents are in int64_contents" in refused(made)
    del made.inputs[0].contents.int64_contents[:]
    made.inputs[0].contents.fp32_contents.extend([0.0] * 9)
    assert "'AUDIO' has 9 values" in refused(made)


def test_names_are_the_models_and_each_is_there_once() -> None:
    made = good()
    made.inputs[1].name = "AUDIO_STRAT"
    assert "unexpected inference input 'AUDIO_STRAT' for model 'anna'" in refused(made)
    made = good()
    made.inputs[1].CopyFrom(made.inputs[0])
    assert "'AUDIO' is given twice" in refused(made)
    made = good()
    made.outputs.add(name="PNG")
    assert "unexpected inference output 'PNG'" in refused(made)
    made = good()
    made.outputs.add(name="JPEG")
    made.outputs.add(name="JPEG")
    assert "'JPEG' is given twice" in refused(made)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("shared_memory_region", "shared memory"),
        ("shared_memory_byte_size", "shared memory"),
        ("shared_memory_offset", "shared memory"),
        ("classification", "classification"),
        ("binary_data_size", "'binary_data_size': it is not taken"),
        ("x" * 1000, "not taken"),
    ],
)
def test_tensors_take_no_parameters(name: str, sentence: str) -> None:
    made = good()
    made.inputs[0].parameters[name].int64_param = 1
    assert sentence in refused(made)
    made = good()
    made.outputs.add(name="JPEG").parameters[name].int64_param = 1
    assert sentence in refused(made)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequence_id", InferParameter(int64_param=1)),
        ("sequence_start", InferParameter(bool_param=True)),
        ("timeout", InferParameter(string_param="1")),
        ("timeout", InferParameter(int64_param=-1)),
        ("priority", InferParameter(double_param=1.0)),
        ("timeout", InferParameter()),
    ],
)
def test_other_parameters_of_a_request_are_refused(name: str, value: InferParameter) -> None:
    made = good()
    made.parameters[name].CopyFrom(value)
    assert f"'{name}'" in refused(made)


def test_a_long_id_is_refused() -> None:
    made = good()
    made.id = "x" * 257
    assert "id has 257 characters" in refused(made)


@pytest.mark.parametrize(
    ("name", "version"),
    [("", ""), ("../x", ""), ("a/b", ""), ("a\n", ""), ("x" * 129, ""), ("a", "-1"), ("a", "9" * 19)],
)
def test_names_that_no_model_has_are_refused(name: str, version: str) -> None:
    with pytest.raises(Refused, match="the model's"):
        checks.check_name(name, version)
    checks.check_name("lipsync_ensemble", "1")


def test_inner_models_have_no_contract() -> None:
    with pytest.raises(Refused, match="inner model") as caught:
        Contract.of(ModelConfig(name="lipsync", backend="onnxruntime"))
    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED


def test_composite_takes_neither_mouths_nor_clocks() -> None:
    made = ModelConfig(name="composite", backend="python")
    for name in ("mouth", "avatar_key", "footage_position", "frame_index", "clock"):
        made.input.add(name=name, data_type="TYPE_INT64", dims=[-1, 1])
    assert set(Contract.of(made).inputs) == {"avatar_key", "footage_position", "frame_index"}


def test_a_batching_model_has_the_batch_before_its_shape() -> None:
    assert Contract.of(config(max_batch_size=4)).inputs[START].dims == (-1, 1)
