"""The onnxruntime backend: rows of a batch run side by side, failures stay alone, configs are honoured."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from lipsync_mel import timeline
from lipsync_onnx.batch import run_in_parts, run_joined
from lipsync_onnx.device_buffers import KEPT, DeviceBuffers
from lipsync_onnx.rows import Rows, RowsError
from lipsync_onnx.session import open_network, providers, session_options, thread_budget
from lipsync_server import home
from lipsync_server.networks.graphs import served_encoder

LOOKUP = """
<ir_version: 8, opset_import: ["" : 17]>
lookup (int64[B,1] index) => (float[B,1] value) <float[4] table = {10, 11, 12, 13}> { value = Gather(table, index) }
"""
CONFIG = {
    "max_batch_size": 8,
    "input": [{"name": "index", "dims": ["1"]}],
    "output": [{"name": "value", "dims": ["1"]}],
}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "lookup" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(LOOKUP), path)
    return path


@pytest.fixture
def run(model):
    network = open_network(CONFIG, model, "CPU", 0)
    return lambda inputs: {"value": network.run(["value"], inputs)[0]}


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as workers:
        yield workers


CONVOLUTION = {
    "max_batch_size": 8,
    "input": [{"name": "x", "dims": ["16", "20", "20"]}],
    "output": [{"name": "y", "dims": ["16", "18", "18"]}],
}


def convolution(folder):
    weights = np.random.default_rng(1).standard_normal((16, 16, 3, 3)).astype(np.float32)
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        convolution (float[B,16,20,20] x) => (float[B,16,18,18] y) { y = Conv(x, w) }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def rows(*numbers):
    return {"index": np.array(numbers, np.int64)[:, None]}


def test_joined_requests_get_their_own_rows_back(run, pool):
    answers = list(run_joined(run, [rows(0), rows(1, 2, 3), rows(3, 0)], pool))
    assert [answer["value"].ravel().tolist() for answer in answers] == [[10], [11, 12, 13], [13, 10]]


def test_a_failing_request_takes_no_other_with_it(run, pool):
    answers = list(run_joined(run, [rows(0), rows(99), rows(2)], pool))
    assert answers[0]["value"].tolist() == [[10]] and answers[2]["value"].tolist() == [[12]]
    assert "99" in str(answers[1])


def test_rows_of_a_batch_run_at_once_each_alone_and_come_back_in_order(pool):
    both = threading.Barrier(2)  # passed only where two rows are under way at the same time

    def run(inputs):
        assert inputs["x"].shape == (1,)
        both.wait(timeout=30)
        return {"y": inputs["x"] + 1}

    assert run_in_parts(run, {"x": np.arange(10)}, pool)["y"].tolist() == list(range(1, 11))


def test_without_a_pool_a_batch_runs_as_one():
    sizes = []
    run_in_parts(lambda inputs: sizes.append(len(inputs["x"])) or inputs, {"x": np.arange(10)}, None)
    assert sizes == [10]


def test_rows_at_once_times_threads_each_never_exceed_the_stated_cores():
    def budget(batch, cores):
        return thread_budget(
            {"max_batch_size": batch, "parameters": {"intra_op_thread_count": {"string_value": str(cores)}}}
        )

    assert budget(8, 2) == (2, 1) and budget(8, 16) == (4, 4) and budget(8, 7) == (4, 1)
    assert budget(0, 16) == (1, 16)  # what does not batch has no rows to share out
    workers, threads = thread_budget({"max_batch_size": 8})
    assert 1 <= workers * threads <= len(os.sched_getaffinity(0))


def test_configured_threads_and_graph_level_reach_the_session():
    config = {
        "optimization": {"graph": {"level": -1}},
        "parameters": {
            "inter_op_thread_count": {"string_value": "2"},
            "execution_mode": {"string_value": "1"},
            "enable_mem_arena": {"string_value": "0"},
        },
    }
    options = session_options(config, 3)
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not options.enable_cpu_mem_arena


def test_wrong_settings_are_refused_by_name(model):
    with pytest.raises(ValueError, match=r"intra_op_thread_count is 'two'"):
        thread_budget({"max_batch_size": 8, "parameters": {"intra_op_thread_count": {"string_value": "two"}}})
    with pytest.raises(ValueError, match=r"precision of the accelerator openvino is 'INT4'"):
        open_network(CONFIG | accelerated("cpu", "openvino", precision="INT4"), model, "CPU", 0)
    with pytest.raises(ValueError, match=r"graph\.level is 7"):
        session_options({"optimization": {"graph": {"level": 7}}}, 1)


def accelerated(kind: str, name: str, **parameters: str) -> dict:
    return {
        "optimization": {
            "execution_accelerators": {f"{kind}_execution_accelerator": [{"name": name, "parameters": parameters}]}
        }
    }


def test_a_named_accelerator_is_used_with_its_parameters_or_the_load_fails():
    everything = [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "OpenVINOExecutionProvider",
        "CPUExecutionProvider",
    ]
    config = accelerated("gpu", "tensorrt", precision_mode="FP16", max_workspace_size_bytes="1073741824")
    chosen = providers(config, "GPU", 1, everything)
    assert [name for name, _ in chosen] == [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]
    assert chosen[0][1] == {
        "device_id": 1,
        "trt_fp16_enable": True,
        "trt_int8_enable": False,
        "trt_max_workspace_size": "1073741824",
    }
    assert [name for name, _ in providers(config, "CPU", 0, everything)] == ["CPUExecutionProvider"]
    assert providers(accelerated("cpu", "openvino"), "CPU", 0, everything)[0][0] == "OpenVINOExecutionProvider"
    with pytest.raises(ValueError, match="'tensorrt' is not in this onnxruntime"):
        providers(config, "GPU", 0, ["CPUExecutionProvider"])


def test_a_gpu_is_used_where_onnxruntime_has_cuda_and_else_the_cpu_serves():
    parameters = {
        "parameters": {"cudnn_conv_algo_search": {"string_value": "1"}, "gpu_mem_limit": {"string_value": "512"}}
    }
    name, options = providers(parameters, "GPU", 1, ["CUDAExecutionProvider", "CPUExecutionProvider"])[0]
    assert name == "CUDAExecutionProvider"
    assert options == {"device_id": 1, "cudnn_conv_algo_search": "HEURISTIC", "gpu_mem_limit": 512}
    assert providers({}, "GPU", 0, ["CPUExecutionProvider"]) == [("CPUExecutionProvider", {})]


def test_openvino_runs_the_network_row_by_row_or_onnxruntime_does(model, monkeypatch):
    config = CONFIG | accelerated("cpu", "openvino")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    plain = open_network(config, model, "CPU", 0)
    monkeypatch.undo()
    assert plain.device == "ONNX Runtime, CPUExecutionProvider"
    pytest.importorskip("openvino")
    network = open_network(config, model, "CPU", 0)
    assert network.device == "OpenVINO, f32"
    for each in (plain, network):
        got = run_in_parts(lambda x, each=each: {"value": each.run(["value"], x)[0]}, rows(3, 0, 2, 1), each.pool)
        assert got["value"].ravel().tolist() == [13, 10, 12, 11]


def encoder_rows(count, mask_count=None):
    windows = np.random.default_rng(count).standard_normal((count, 1, 80, 16)).astype(np.float32)
    return {"mel_windows": windows, "window_mask": np.ones((mask_count or count, 1), np.float32)}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "model.onnx"
    onnx.save(served_encoder(onnx.load(home.AVATARS / "audio_encoder" / "encoder.onnx")), path)
    return path


@pytest.mark.parametrize("waiting", [0, 2])
def test_after_a_failure_in_openvino_the_same_shape_is_served(encoder, waiting):
    """Also to callers in other threads, who wait for the network that failed. With one thread OpenVINO notices nothing,
    and computes rows from memory that is not the request's.
    """
    openvino_network = pytest.importorskip("lipsync_onnx.openvino_network", reason="OpenVINO is not installed")
    shapes = {"mel_windows": [-1, 1, 80, 16], "window_mask": [-1, 1]}
    run = openvino_network.open_openvino(encoder, shapes, 1, 2, "f32")
    right = run(["audio_features"], encoder_rows(20))[0].tolist()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="mismatch"):
            run(["audio_features"], encoder_rows(19, 20))
        with ThreadPoolExecutor(waiting + 1) as threads:
            answers = [threads.submit(run, ["audio_features"], encoder_rows(20)) for _ in range(waiting + 1)]
        assert all(answer.result()[0].tolist() == right for answer in answers)


ENCODER = {
    "max_batch_size": 0,
    "input": [{"name": "mel_windows"}, {"name": "window_mask"}],
    "parameters": {"min_rows": {"string_value": "2"}, "max_rows": {"string_value": "4"}},
}


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (encoder_rows(3, 4), "window_mask has 4 rows and mel_windows 3: they must have as many"),
        (encoder_rows(1), "mel_windows has 1 rows: from 2 to 4 are allowed in a request"),
        (encoder_rows(5), "mel_windows has 5 rows: from 2 to 4 are allowed in a request"),
        ({"mel_windows": encoder_rows(3)["mel_windows"]}, "window_mask is missing"),
    ],
)
def test_rows_that_the_config_does_not_allow_are_named(inputs, sentence):
    with pytest.raises(RowsError, match=sentence):
        Rows.of(ENCODER).check(inputs)


def test_rows_that_the_config_allows_are_run():
    for count in (2, 4):
        Rows.of(ENCODER).check(encoder_rows(count))
    Rows.of(ENCODER | {"parameters": {}}).check(encoder_rows(50))
    with pytest.raises(RowsError, match="mel_windows has 9 rows: from 1 to 8"):
        Rows.of(ENCODER | {"max_batch_size": 8}).check(encoder_rows(9))


def test_the_encoders_rows_are_those_of_1_to_32_frames():
    text = (home.repository() / "audio_encoder" / "config.pbtxt").read_text()
    config = json_format.MessageToDict(
        text_format.Parse(text, model_config_pb2.ModelConfig()), preserving_proto_field_name=True
    )
    rows = Rows.of({"max_batch_size": 0} | config)
    beside = timeline.ROWS_PER_FRAME - 1
    assert (rows.least, rows.most) == (1 + beside, timeline.MAX_FRAMES + beside)


def test_bf16_is_used_where_the_cpu_has_it_else_fp32(tmp_path, monkeypatch):
    openvino_network = pytest.importorskip("lipsync_onnx.openvino_network", reason="OpenVINO is not installed")
    path, config = convolution(tmp_path), CONVOLUTION | accelerated("cpu", "openvino", precision="BF16")
    picture = {"x": np.random.default_rng(0).standard_normal((3, 16, 20, 20)).astype(np.float32)}

    def computed():
        network = open_network(config, path, "CPU", 0)
        got = run_in_parts(lambda x: {"y": network.run(["y"], x)[0]}, picture, network.pool)["y"]
        return network.device, got

    monkeypatch.setattr(openvino_network, "computes_bf16", lambda: False)
    device, exact = computed()
    assert device == "ONNX Runtime, CPUExecutionProvider"
    monkeypatch.undo()
    if not openvino_network.computes_bf16():
        pytest.skip("this CPU does not compute in BF16")
    device, rounded = computed()
    assert device == "OpenVINO, bf16"
    difference = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-5 < difference < 0.02  # BF16 has 8 bits


def test_gpu_inputs_go_into_kept_memory_and_answers_stay_as_they_are(model, monkeypatch):
    """There is no GPU here: the CPU stands for it, with the same calls."""
    allocate, allocated = ort.OrtValue.ortvalue_from_numpy, []

    def watched(values, device, number):
        allocated.append(len(values))
        return allocate(values, device, number)

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", watched)
    session = ort.InferenceSession(str(model))
    buffers = DeviceBuffers(session, "cpu", 0)
    answers = [buffers.run(["value"], rows(*numbers))[0] for numbers in ([3, 0], [1, 2], [0], [2, 3])]
    assert [answer.ravel().tolist() for answer in answers] == [[13, 10], [11, 12], [10], [12, 13]]
    assert allocated == [2, 1]  # once for each number of rows
    many = range(1, KEPT + 4)
    for count in (*many, *reversed(many)):
        assert buffers.run(["value"], rows(*[1] * count))[0].ravel().tolist() == [11] * count
    assert allocated == [2, 1, *many[2:], *(3, 2, 1)]  # the last KEPT were there on the way back


def test_a_network_on_a_gpu_runs_its_batch_as_one_on_the_stated_gpu(model, monkeypatch):
    asked = []

    class Session(ort.InferenceSession):  # as onnxruntime-gpu has it, as far as it goes without a GPU
        def __init__(self, path, options, providers):
            asked.extend(providers)
            super().__init__(path, options, providers=["CPUExecutionProvider"])

        def get_providers(self):
            return [name for name, _ in asked]

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr("lipsync_onnx.gpu_libraries.problem", lambda wanted: None)
    network = open_network(CONFIG, model, "GPU", 3)
    assert asked[0] == ("CUDAExecutionProvider", {"device_id": 3})
    assert network.pool is None and network.device == "ONNX Runtime, CUDAExecutionProvider 3"
    assert isinstance(network.run.__self__, DeviceBuffers)


def test_a_missing_file_and_a_wrong_tensor_name_are_named(model):
    with pytest.raises(ValueError, match=r"lookup/1/other\.onnx is missing: run `lipsync build`"):
        open_network(CONFIG, model.with_name("other.onnx"), "CPU", 0)
    with pytest.raises(ValueError, match=r"has the output 'price'; model\.onnx has \['value'\]"):
        open_network(CONFIG | {"output": [{"name": "price"}]}, model, "CPU", 0)
