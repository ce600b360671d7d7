"""Makes the networks of a model repository ready for NVIDIA GPUs: FP16 twins, and configs that use them.

    lipsync gpu-models [--repository model_repository]

Beside each network's `model.onnx` it writes its twins in FP16, `model_fp16.onnx` for CUDA and `model_tensorrt.onnx`,
and for each model the configs `configs/cuda.pbtxt`, `tensorrt.pbtxt` and `plain.pbtxt`, which Triton takes with
`--model-config-name=cuda`, and `lipsync serve` with `gpu_configs` in server.yaml. Run it again after avatars were
packed or added. docs/gpu.md has the rest.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx
from google.protobuf import text_format
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from tritonclient.grpc import model_config_pb2

from lipsync_mel import timeline
from lipsync_server.networks.quantize import without_quantisation
from lipsync_server.networks.tensorrt_graph import ends_in_a_cast, levels_of, with_wide_crops

TWIN = "model_fp16.onnx"
TENSORRT_TWIN = "model_tensorrt.onnx"
WIDE_CROPS = "model_tensorrt.data"
ENGINES = "/var/tmp/lipsync-tensorrt"  # not in the repository: Triton reloads a model whose folder has changed
WORKSPACE = 2**30  # bytes that TensorRT may use while it runs
BATCH = 64  # frames: two requests of 25 do not fit into 32
SIZES = (1, 16, BATCH)  # frames that engines are built for: least, best, most
ENGINE_NODES = 20  # fewest nodes of an engine: what finds the footage frame stays on CUDA
STAGES = {"composite": 4, "mel_preprocess": 2}  # processes: one composite makes about 1,700 frames a second


def write_gpu_models(repository: Path) -> list[str]:
    """Write the twins and the configs of every network in a repository; returns the models' names.

    Raises:
        ValueError, OSError: a network is missing or broken.
    """
    written = []
    for path in sorted(repository.glob("*/config.pbtxt")):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        if count := STAGES.get(path.parent.name):
            config.instance_group[0].count = count
            text = text_format.MessageToString(config)
            _write_configs(path.parent / "configs", {"cuda": text, "tensorrt": text})
        if config.backend != "onnxruntime":
            continue
        networks = sorted(path.parent.glob("[0-9]*/model.onnx"))
        if not networks:
            raise ValueError(f"{path.parent} has no network: run `lipsync build`")
        for network in networks:
            crossing = _write_twins(network)
        weights = hashlib.sha256(networks[-1].read_bytes()).hexdigest()[:12]
        _write_configs(path.parent / "configs", gpu_configs(config, weights, crossing))
        written.append(config.name)
    return written


def _write_twins(network: Path) -> dict[str, list[int]]:
    """Write the twins of one network. Returns what crosses into TensorRT's engine besides its inputs (`levels_of`)."""
    whole = network.with_name("whole.onnx")  # an avatar's network; model.onnx is for CPUs
    model = _without_crops(whole if whole.exists() else network)
    _write(network.with_name(TWIN), in_fp16(model).SerializeToString())
    twin = with_wide_crops(in_fp16(ends_in_a_cast(model)), network.parent, WIDE_CROPS)
    _write(network.with_name(TENSORRT_TWIN), twin.SerializeToString())
    return levels_of(twin)


def _write_configs(folder: Path, texts: Mapping[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        _write(folder / f"{name}.pbtxt", text.encode())


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


def gpu_configs(
    config: model_config_pb2.ModelConfig, weights: str, crossing: Mapping[str, Sequence[int]]
) -> dict[str, str]:
    """The config of a network as `cuda`, `tensorrt` and `plain` ask for it.

    `plain` is for a stock image that was built without OpenVINO (arm64, RHEL), on its CPU.

    Args:
        config: as it is for CPUs.
        weights: changes with the network; TensorRT's engines are kept by it, because ONNX Runtime tells them apart by
            the names in the graph alone, which all avatars share.
        crossing: further inputs of the engine, with their shapes for one frame.
    """
    plain = model_config_pb2.ModelConfig()
    plain.CopyFrom(config)
    # The stock image's backend fails on an accelerator that it lacks, for a CPU too.
    plain.optimization.ClearField("execution_accelerators")
    plain.parameters.pop("trial_cpu", None)  # so no engine is tried for it

    cuda = model_config_pb2.ModelConfig()
    cuda.CopyFrom(plain)
    cuda.default_model_filename = TWIN
    if cuda.max_batch_size:
        cuda.max_batch_size = BATCH
    # The default, an exhaustive search, would be made again for each new batch size.
    cuda.parameters["cudnn_conv_algo_search"].string_value = "1"
    # Each session has an arena of its own: it takes what it needs, not the next power of two.
    cuda.parameters["arena_extend_strategy"].string_value = "1"

    tensorrt = model_config_pb2.ModelConfig()
    tensorrt.CopyFrom(cuda)
    tensorrt.default_model_filename = TENSORRT_TWIN
    accelerator = tensorrt.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    accelerator.parameters["precision_mode"] = "FP16"
    accelerator.parameters["max_workspace_size_bytes"] = str(WORKSPACE)
    accelerator.parameters["trt_engine_cache_enable"] = "1"
    accelerator.parameters["trt_engine_cache_path"] = f"{ENGINES}-{config.name}-{weights}"
    accelerator.parameters["trt_min_subgraph_size"] = str(ENGINE_NODES)
    for name, frames in zip(("min", "opt", "max"), _sizes(config), strict=True):
        accelerator.parameters[f"trt_profile_{name}_shapes"] = _shapes(config, crossing, frames)
    _warm_up(cuda, (1, _sizes(config)[-1]))
    _warm_up(tensorrt, _sizes(config))
    configs = {"plain": plain, "cuda": cuda, "tensorrt": tensorrt}
    return {name: text_format.MessageToString(each) for name, each in configs.items()}


def _sizes(config: model_config_pb2.ModelConfig) -> tuple[int, ...]:
    """Frames of the least, the best and the largest batch. The encoder computes the rows of one request at a time."""
    return SIZES if config.max_batch_size else (*SIZES[:-1], timeline.MAX_FRAMES)


def _shapes(config: model_config_pb2.ModelConfig, crossing: Mapping[str, Sequence[int]], frames: int) -> str:
    """Shapes of an engine's inputs, as ONNX Runtime reads them: `name:1x2x3,other:4x5`."""
    shapes = dict(crossing)
    for tensor in config.input:  # the encoder states its rows, the others have a batch dimension besides
        shapes[tensor.name] = tensor.dims if config.max_batch_size else tensor.dims[1:]
    rows = frames if config.max_batch_size else frames + timeline.ROWS_PER_FRAME - 1
    return ",".join(f"{name}:{'x'.join(map(str, (rows, *shape)))}" for name, shape in shapes.items())


def _warm_up(config: model_config_pb2.ModelConfig, sizes: Iterable[int]) -> None:
    """Warm up with these numbers of frames: memory and kernels for them are there before the first request."""
    sample = model_config_pb2.ModelWarmup()
    sample.CopyFrom(config.model_warmup[0])
    config.ClearField("model_warmup")
    for frames in sizes:
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
