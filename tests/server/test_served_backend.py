"""The onnxruntime backend inside a real server: what must not depend on the product's own networks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import onnx
import onnx.parser
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from conftest import infer
from lipsync_server.serving import Ports, ServerConfig, TritonServer

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
lookup (int64[B,1] index) => (float[B,1] value) <float[4] table = {10, 11, 12, 13}> { value = Gather(table, index) }
"""
CONFIG = """
name: "%(name)s" backend: "onnxruntime" max_batch_size: 16
input [ { name: "index" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "value" data_type: TYPE_FP32 dims: [ 1 ] } ]
dynamic_batching { max_queue_delay_microseconds: 500000 }
%(more)s
"""
TENSORRT = 'optimization { execution_accelerators { cpu_execution_accelerator: [ { name: "tensorrt" } ] } }'


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("backend")
    for name, more in (("lookup", ""), ("accelerated", TENSORRT)):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(CONFIG % {"name": name, "more": more})
        onnx.save(onnx.parser.parse_model(MODEL), repository / name / "1" / "model.onnx")
    config = ServerConfig(ports=Ports(0, 0, 0), load=("lookup", "accelerated"), required=("lookup",))
    with TritonServer(repository, config) as running:
        yield running


def test_one_bad_request_in_a_shared_batch_fails_alone(server):
    def ask(index: int) -> float | str:
        with grpc.InferenceServerClient(server.grpc_url) as own:
            try:
                return float(infer(own, "lookup", index=[[index]]).value[0, 0])
            except InferenceServerException as error:
                return error.message()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [0, 1, 99, 2, 3, 0, 1, 2]))
    assert [*answers[:2], *answers[3:]] == [10, 11, 12, 13, 10, 11, 12]
    assert "99" in answers[2]
    with grpc.InferenceServerClient(server.grpc_url) as own:
        stats = own.get_inference_statistics("lookup").model_stats[0]
    assert stats.execution_count < 8  # they did share


def test_an_accelerator_that_is_not_there_fails_the_load_with_its_name(server):
    assert "'tensorrt' is not in this onnxruntime" in server.failures["accelerated"]
