"""Makes the networks of a model repository ready for NVIDIA GPUs: FP16 twins, and configs that use them.

    lipsync gpu-models [--repository model_repository]

Beside each network's `model.onnx` it writes `model_fp16.onnx`, and for each model the configs `configs/cuda.pbtxt` and
`configs/tensorrt.pbtxt`, which Triton takes with `--model-config-name=cuda` (or tensorrt), and `lipsync serve`
with `gpu_configs` in server.yaml. Run it again after avatars were packed or added. docs/gpu.md has the rest.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import onnx
from google.protobuf import text_format
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from tritonclient.grpc import model_config_pb2

from lipsync_mel import timeline
from lipsync_server.networks.quantize import without_quantisation

TWIN = "model_fp16.onnx"
ENGINES = "/var/tmp/lipsync-tensorrt"  # not in the repository: Triton reloads a model whose folder has changed
WORKSPACE = 2**30  # bytes that TensorRT may use while it runs


def write_gpu_models(repository: Path) -> list[str]:
    """Write the twin and both configs of every network in a repository; returns the models' names.

    Raises:
        ValueError, OSError: a network is missing or broken.
    """
    written = []
    for path in sorted(repository.glob("*/config.pbtxt")):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        if config.backend != "onnxruntime":
            continue
        networks = sorted(path.parent.glob("[0-9]*/model.onnx"))
        if not networks:
            raise ValueError(f"{path.parent} has no network: run `lipsync build`")
        for network in networks:
            whole = network.with_name("whole.onnx")  # an avatar's network; model.onnx is for CPUs
            twin = in_fp16(_without_crops(whole if whole.exists() else network))
            _write(network.with_name(TWIN), twin.SerializeToString())
        weights = hashlib.sha256(networks[-1].read_bytes()).hexdigest()[:12]
        (path.parent / "configs").mkdir(exist_ok=True)
        for name, text in gpu_configs(config, weights).items():
            _write(path.parent / "configs" / f"{name}.pbtxt", text.encode())
        written.append(config.name)
    return written


def _without_crops(path: Path) -> onnx.ModelProto:
    """A network with its weights; the face crops, bytes that FP16 does not change, stay in their file."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if uses_external_data(tensor) and tensor.data_type != onnx.TensorProto.UINT8:
            load_external_data_for_tensor(tensor, str(path.parent))
    return model


def _write(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        draft = path.with_suffix(".draft")
        draft.write_bytes(content)
        draft.replace(path)


def gpu_configs(config: model_config_pb2.ModelConfig, weights: str) -> dict[str, str]:
    """The config of a network as `cuda` and as `tensorrt` ask for it.

    Args:
        config: as it is for CPUs.
        weights: changes with the network; TensorRT's engines are kept by it, because ONNX Runtime tells them apart by
            the names in the graph alone, which all avatars share.
    """
    cuda = model_config_pb2.ModelConfig()
    cuda.CopyFrom(config)
    cuda.default_model_filename = TWIN
    # The stock image's backend fails on an accelerator that it lacks, for a CPU too.
    cuda.optimization.ClearField("execution_accelerators")
    cuda.parameters.pop("trial_cpu", None)  # so no engine is tried for it
    # The default, an exhaustive search, would be made again for each new batch size.
    cuda.parameters["cudnn_conv_algo_search"].string_value = "1"

    tensorrt = model_config_pb2.ModelConfig()
    tensorrt.CopyFrom(cuda)
    accelerator = tensorrt.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    accelerator.parameters["precision_mode"] = "FP16"
    accelerator.parameters["max_workspace_size_bytes"] = str(WORKSPACE)
    accelerator.parameters["trt_engine_cache_enable"] = "1"
    accelerator.parameters["trt_engine_cache_path"] = f"{ENGINES}-{config.name}-{weights}"
    _warm_up_ends(tensorrt)
    return {"cuda": text_format.MessageToString(cuda), "tensorrt": text_format.MessageToString(tensorrt)}


def _warm_up_ends(config: model_config_pb2.ModelConfig) -> None:
    """Warm up with the fewest and the most frames: an engine is built again for sizes beyond those that it has seen."""
    sample = model_config_pb2.ModelWarmup()
    sample.CopyFrom(config.model_warmup[0])
    config.ClearField("model_warmup")
    for frames in (1, timeline.MAX_FRAMES):
        sample.name = f"{frames} frames"
        if config.max_batch_size:
            sample.batch_size = frames
        else:  # the encoder: rows of a request
            for tensor in sample.inputs.values():
                tensor.dims[0] = frames + timeline.ROWS_PER_FRAME - 1
        config.model_warmup.add().CopyFrom(sample)


def in_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A network with FP16 inside and its inputs and outputs as they are; INT8 becomes FP16 too."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that are smaller than the least FP16
        half: onnx.ModelProto = convert_float_to_float16(without_quantisation(model), keep_io_types=True)
        return half
