"""FP16 twins and GPU configs: right without a GPU as far as that goes."""

import shutil

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from onnx import numpy_helper
from tritonclient.grpc import model_config_pb2

from lipsync_server import home
from lipsync_server.networks.constants import with_constants
from lipsync_server.networks.quantize import quantize
from lipsync_server.networks.tensorrt_graph import ends_in_a_cast, levels_of, with_wide_crops
from lipsync_server.networks.unet_graphs import Resident, served_unet
from lipsync_server.repository.gpu import TENSORRT_TWIN, TWIN, in_fp16, write_gpu_models
from lipsync_server.serving import ConfigError, ServerConfig
from lipsync_server.serving.model_configs import write_configs

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
network (float[N,3,8,8] mel) => (float[N,4,6,6] features)
{
  first = Conv(mel, w1)
  a = Relu(first)
  second = Conv(a, w2)
  b = Relu(second)
  features = Conv(b, w3)
}
"""
UNET = """
<ir_version: 8, opset_import: ["" : 17]>
unet (float[N,6,320,320] input, float[N,32,16,16] audio) => (float[N,3,320,320] output)
{
  three, rest = Split <axis = 1> (input)
  loud = ReduceMean <axes = [1, 2, 3]> (audio)
  moved = Add(three, loud)
  output = Sigmoid(moved)
}
"""


@pytest.fixture
def network() -> onnx.ModelProto:
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(NETWORK)
    for name, shape in (("w1", (8, 3, 3, 3)), ("w2", (8, 8, 1, 1)), ("w3", (4, 8, 1, 1))):
        model.graph.initializer.append(numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name))
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"
    return model


@pytest.fixture
def repository(tmp_path, network):
    """A network as the encoder and as lipsync, with the configs that the real ones have."""
    for name, config in (("audio_encoder", "config.pbtxt"), ("lipsync", "config.template.pbtxt")):
        (tmp_path / name / "1").mkdir(parents=True)
        shutil.copy(home.repository() / name / config, tmp_path / name / "config.pbtxt")
        onnx.save(network, tmp_path / name / "1" / "model.onnx")
    (tmp_path / "composite").mkdir()
    shutil.copy(home.repository() / "composite" / "config.pbtxt", tmp_path / "composite")
    return tmp_path


def config_of(path):
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_an_int8_network_becomes_fp16_with_its_relus_back(network):
    inputs = [{"mel": np.random.default_rng(n).standard_normal((2, 3, 8, 8)).astype(np.float32)} for n in range(8)]

    def run(model):
        session = ort.InferenceSession(model.SerializeToString())
        return np.concatenate([session.run(None, each)[0] for each in inputs])

    exact, int8 = run(network), quantize(network, inputs)
    assert {"QuantizeLinear", "DequantizeLinear"} < {node.op_type for node in int8.graph.node}
    twin = in_fp16(int8)
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in twin.graph.node}
    weights = {tensor.data_type for tensor in twin.graph.initializer}
    assert weights == {onnx.TensorProto.FLOAT16}
    assert np.abs(run(twin) - exact).max() < 0.05 * np.abs(exact).max()


def test_gpu_configs_name_the_twin_and_nothing_that_the_stock_image_may_lack(repository):
    assert write_gpu_models(repository) == ["audio_encoder", "lipsync"]
    for model in ("audio_encoder", "lipsync"):
        plain, cuda, tensorrt = (
            config_of(repository / model / name)
            for name in ("config.pbtxt", "configs/cuda.pbtxt", "configs/tensorrt.pbtxt")
        )
        assert (repository / model / "1" / TWIN).exists()
        assert (cuda.default_model_filename, tensorrt.default_model_filename) == (TWIN, TENSORRT_TWIN)
        assert (cuda.input, cuda.output, cuda.instance_group) == (plain.input, plain.output, plain.instance_group)
        assert not cuda.optimization.execution_accelerators.cpu_execution_accelerator
        (accelerator,) = tensorrt.optimization.execution_accelerators.gpu_execution_accelerator
        assert accelerator.name == "tensorrt" and accelerator.parameters["precision_mode"] == "FP16"
    warmed = config_of(repository / "lipsync/configs/tensorrt.pbtxt").model_warmup
    assert [sample.batch_size for sample in warmed] == [1, 16, 64]
    encoder = config_of(repository / "audio_encoder/configs/tensorrt.pbtxt")
    assert [sample.inputs["mel_windows"].dims[0] for sample in encoder.model_warmup] == [16, 31, 47]


def test_two_requests_of_25_frames_share_a_batch_and_the_python_stages_keep_up(repository):
    write_gpu_models(repository)
    for name in ("cuda", "tensorrt"):
        assert config_of(repository / f"lipsync/configs/{name}.pbtxt").max_batch_size >= 50
        assert config_of(repository / f"composite/configs/{name}.pbtxt").instance_group[0].count >= 4
        assert config_of(repository / f"audio_encoder/configs/{name}.pbtxt").max_batch_size == 0
        grows = config_of(repository / f"lipsync/configs/{name}.pbtxt").parameters["arena_extend_strategy"]
        assert grows.string_value == "1"


def test_an_engine_has_one_profile_for_all_its_inputs(repository):
    write_gpu_models(repository)

    def profile(model, name):
        config = config_of(repository / model / "configs/tensorrt.pbtxt")
        (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
        return sorted(accelerator.parameters[f"trt_profile_{name}_shapes"].split(","))

    assert profile("lipsync", "min") == ["audio_features:1x32x16x16", "footage_position:1x1"]
    assert profile("lipsync", "opt") == ["audio_features:16x32x16x16", "footage_position:16x1"]
    assert profile("lipsync", "max") == ["audio_features:64x32x16x16", "footage_position:64x1"]
    assert profile("audio_encoder", "max") == ["mel_windows:47x1x80x16", "window_mask:47x1"]


def test_a_config_without_accelerators_is_there_for_images_without_openvino(repository):
    config = repository / "audio_encoder/config.pbtxt"
    assert config_of(config).optimization.execution_accelerators.cpu_execution_accelerator[0].name == "openvino"
    write_gpu_models(repository)
    plain = config_of(repository / "audio_encoder/configs/plain.pbtxt")
    assert not plain.optimization.HasField("execution_accelerators") and not plain.default_model_filename


@pytest.mark.parametrize("crops_in_a_file", [True, False])
def test_tensorrt_gets_no_uint8_inside_and_the_same_mouths(tmp_path, crops_in_a_file):
    """The crops are picked outside of its engine, in a type that it does not know; the mouth is cast last."""
    random = np.random.default_rng(3)
    network = onnx.parser.parse_model(UNET)
    crops = random.integers(0, 256, (5, 3, 320, 320), np.uint8)
    model = with_constants(served_unet(network, Resident(5, (60, 60, 200, 200), "pingpong", 7)), crops=crops)
    if crops_in_a_file:
        onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="x.data", size_threshold=2**20)
        model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    twin = with_wide_crops(in_fp16(ends_in_a_cast(model)), tmp_path, "wide.data")
    onnx.save(twin, tmp_path / "twin.onnx")
    nodes = {output: node for node in twin.graph.node for output in node.output}
    assert nodes["mouth"].op_type == "Cast" and nodes[nodes["mouth"].input[0]].op_type == "Transpose"
    assert levels_of(twin) == {"levels": [3, 320, 320]}
    known = onnx.shape_inference.infer_shapes(twin).graph.value_info
    kinds = {info.name: info.type.tensor_type.elem_type for info in known}
    assert {name for name, kind in kinds.items() if kind == onnx.TensorProto.UINT16} == {"view"}
    assert onnx.TensorProto.UINT8 not in kinds.values()
    inputs = {
        "audio_features": random.standard_normal((9, 32, 16, 16)).astype(np.float32),
        "footage_position": np.arange(9)[:, None],
    }
    onnx.save(in_fp16(model), tmp_path / "model.onnx")
    before, after = (ort.InferenceSession(tmp_path / name).run(None, inputs) for name in ("model.onnx", "twin.onnx"))
    for one, other in zip(before, after, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1  # of 255: FP16 rounds where it is cast
    assert max(answer.std() for answer in before) > 1


def test_tensorrt_engines_of_other_weights_lie_elsewhere(repository, network):
    def engines():
        write_gpu_models(repository)
        config = config_of(repository / "lipsync/configs/tensorrt.pbtxt")
        (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
        return accelerator.parameters["trt_engine_cache_path"]

    before = engines()
    assert engines() == before
    network.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "w1"))
    onnx.save(network, repository / "lipsync" / "1" / "model.onnx")
    assert engines() != before


def test_the_server_takes_gpu_configs_where_they_are_with_other_counts_too(repository):
    with pytest.raises(ConfigError, match=r"no such configs: `lipsync gpu-models --repository "):
        write_configs(repository, {}, "cuda")
    write_gpu_models(repository)
    assert write_configs(repository, {}, "cuda") == "cuda"
    name = write_configs(repository, {"lipsync": 2, "composite": 3}, "cuda")
    assert config_of(repository / f"lipsync/configs/{name}.pbtxt").instance_group[0].count == 2
    assert config_of(repository / f"composite/configs/{name}.pbtxt").instance_group[0].count == 3
    for model in ("lipsync", "audio_encoder"):
        assert config_of(repository / model / "configs" / f"{name}.pbtxt").default_model_filename == TWIN
    with pytest.raises(ConfigError, match="gpu_configs is 'rocm'; allowed is cuda, tensorrt or null"):
        ServerConfig.from_dict({"gpu_configs": "rocm"})
