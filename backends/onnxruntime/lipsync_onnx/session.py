"""Opens a network as a model's config.pbtxt asks for it, with the keys that Triton's C++ ONNX Runtime backend reads.

Source of the keys: the README of triton-inference-server/onnxruntime_backend.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from lipsync_onnx import gpu_libraries
from lipsync_onnx.device_buffers import DeviceBuffers

GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
ARENA_STRATEGIES = {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}
CUDNN_SEARCH = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
ACCELERATORS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
ON_GPU = (ACCELERATORS["cuda"], ACCELERATORS["tensorrt"])
TENSORRT_KEYS = {  # C++ backend's key -> execution provider's
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "trt_max_partition_iterations": "trt_max_partition_iterations",
}

Provider = tuple[str, dict[str, Any]]
CPU_WORKERS = 4  # rows at once on the CPU: threads that share one row wait for each other in every layer


@dataclass(frozen=True)
class Network:
    """A loaded model."""

    run: Callable[[list[str], dict[str, NDArray[Any]]], list[NDArray[Any]]]  # outputs' names, inputs -> outputs
    device: str  # for the log
    pool: Executor | None  # its workers run the rows of a batch, each row alone; None: the batch runs as one
    trial: str = ""  # why this engine runs it, where a trial decided; for the log


def accelerators(config: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The accelerators that the config names for "CPU" or "GPU"."""
    named = config.get("optimization", {}).get("execution_accelerators", {})
    found: list[dict[str, Any]] = named.get(f"{kind.lower()}_execution_accelerator", [])
    return found


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """The config's top-level `parameters` as a plain mapping."""
    return {name: value["string_value"] for name, value in config.get("parameters", {}).items()}


def number(stated: Mapping[str, str], name: str, default: int) -> int:
    """A parameter that is a whole number. Raises ValueError if it is none."""
    value = stated.get(name, str(default))
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"parameter {name} is {value!r}: it must be a whole number") from None


def thread_budget(config: Mapping[str, Any]) -> tuple[int, int]:
    """The number of workers for the rows of a batch, and of threads for each worker.

    Their product is at most the model's `intra_op_thread_count`, by default the number of cores of this process.
    """
    threads = number(parameters(config), "intra_op_thread_count", 0) or len(os.sched_getaffinity(0))
    workers = min(threads, CPU_WORKERS) if config["max_batch_size"] > 0 else 1
    return workers, threads // workers


def session_options(config: Mapping[str, Any], threads: int) -> ort.SessionOptions:
    """Session options from the config: graph level, `threads` for each call, execution mode and memory arena.

    Raises:
        ValueError: ONNX Runtime does not know a value; the message names it.
    """
    stated, options = parameters(config), ort.SessionOptions()
    level = config.get("optimization", {}).get("graph", {}).get("level", 0)
    if level not in GRAPH_LEVELS:
        raise ValueError(f"optimization.graph.level is {level}: it must be -1 (basic), 0 (all) or 1 (extended)")
    options.graph_optimization_level = GRAPH_LEVELS[level]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = number(stated, "inter_op_thread_count", 0)
    if number(stated, "execution_mode", 0) == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = number(stated, "enable_mem_arena", 1) != 0
    # Several stages share the cores: a thread that waits must sleep, not spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _tensorrt(stated: Mapping[str, str], device: int) -> Provider:
    options: dict[str, Any] = {"device_id": device}
    for name, value in stated.items():
        if name == "precision_mode":
            options |= {"trt_fp16_enable": value == "FP16", "trt_int8_enable": value == "INT8"}
        elif name in TENSORRT_KEYS or name.startswith("trt_"):
            options[TENSORRT_KEYS.get(name, name)] = value
    return ACCELERATORS["tensorrt"], options


def _cuda(stated: Mapping[str, str], device: int) -> Provider:
    options: dict[str, Any] = {"device_id": device}
    if "cudnn_conv_algo_search" in stated:
        options["cudnn_conv_algo_search"] = CUDNN_SEARCH.get(stated["cudnn_conv_algo_search"], "DEFAULT")
    if "gpu_mem_limit" in stated:
        options["gpu_mem_limit"] = number(stated, "gpu_mem_limit", 0)
    if "arena_extend_strategy" in stated:
        options["arena_extend_strategy"] = ARENA_STRATEGIES.get(stated["arena_extend_strategy"], "kNextPowerOfTwo")
    return ACCELERATORS["cuda"], options


def providers(config: Mapping[str, Any], kind: str, device: int, available: Sequence[str]) -> list[Provider]:
    """The execution providers in the order of preference.

    Args:
        config: the model's config.
        kind: "GPU" or "CPU", as Triton resolved `instance_group`.
        device: GPU number.
        available: the providers of this onnxruntime.

    Raises:
        ValueError: the config names an accelerator that this onnxruntime lacks. As in the C++ backend, there is no
            fallback. Only openvino may be missing, because it affects only the speed.
    """
    result: list[Provider] = []
    for entry in accelerators(config, kind):
        name = entry["name"]
        if name == "openvino" and ACCELERATORS[name] not in available:
            continue  # `open_network` uses the openvino wheel; without it, plain ONNX Runtime is slower
        if ACCELERATORS.get(name) not in available:
            raise ValueError(
                f"execution accelerator {name!r} is not in this onnxruntime, which has: {', '.join(available)}"
            )
        if name == "tensorrt":
            result.append(_tensorrt(entry.get("parameters", {}), device))
        elif name == "cuda":
            result.append(_cuda(entry.get("parameters", {}) | parameters(config), device))
        else:
            stated = entry.get("parameters", {})
            result.append((ACCELERATORS[name], {key: value for key, value in stated.items() if key != "precision"}))
    # KIND_AUTO becomes GPU wherever there is one; with the CPU build of onnxruntime the CPU serves.
    if kind == "GPU" and ACCELERATORS["cuda"] in available and ACCELERATORS["cuda"] not in dict(result):
        result.append(_cuda(parameters(config), device))
    return [*result, ("CPUExecutionProvider", {})]


def _openvino_precision(config: Mapping[str, Any], kind: str, available: Sequence[str]) -> str | None:
    """The precision for the openvino wheel, "f32" or "bf16"; None: ONNX Runtime runs the network.

    Raises:
        ValueError: the accelerator's `precision` is not BF16.
    """
    entry = next((entry for entry in accelerators(config, kind) if entry["name"] == "openvino"), None)
    if entry is None:
        return None
    stated = entry.get("parameters", {}).get("precision")
    if stated not in (None, "BF16"):
        raise ValueError(f"precision of the accelerator openvino is {stated!r}: it must be 'BF16' or absent")
    if ACCELERATORS["openvino"] in available or not importlib.util.find_spec("openvino"):
        return None
    if stated is None:
        return "f32"  # layers that are not quantised stay exact
    from lipsync_onnx.openvino_network import computes_bf16

    return "bf16" if computes_bf16() else None


def _session(path: Path, options: ort.SessionOptions, chosen: list[Provider]) -> ort.InferenceSession:
    """A session on the chosen providers. Raises ValueError where ONNX Runtime would leave out one that is for GPUs."""
    wanted = [name for name, _ in chosen if name in ON_GPU]
    if wanted and (problem := gpu_libraries.problem(wanted)):
        raise ValueError(problem)
    session = ort.InferenceSession(str(path), options, providers=chosen)
    if absent := [name for name in wanted if name not in session.get_providers()]:
        raise ValueError(
            f"ONNX Runtime left out {absent[0]} although its libraries are here: mostly the driver is too old for them "
            "(CUDA 13 needs 580 or newer, see `nvidia-smi`)"
        )
    return session


def open_network(config: Mapping[str, Any], path: Path, kind: str, device: int) -> Network:
    """Load the network `path` for "CPU" or "GPU" number `device`, and check its inputs and outputs against the config.

    Raises:
        ValueError: a file, an accelerator, a tensor or a GPU's library is missing; the message names it.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent.parent.name}/{path.parent.name}/{path.name} is missing: run `lipsync build`")
    available = ort.get_available_providers()
    workers, threads = thread_budget(config)
    batches = config["max_batch_size"] > 0
    pool = ThreadPoolExecutor(workers) if batches else None
    precision = _openvino_precision(config, kind, available)
    if precision:
        from lipsync_onnx.openvino_network import open_openvino

        one_row = [1] if batches else []
        shapes = {tensor["name"]: [*one_row, *map(int, tensor["dims"])] for tensor in config["input"]}
        run = open_openvino(path, shapes, workers, threads, precision)
        return Network(run, f"OpenVINO, {precision}", pool)

    chosen = providers(config, kind, device, available)
    session = _session(path, session_options(config, threads), chosen)
    for field, there in (("input", session.get_inputs()), ("output", session.get_outputs())):
        names = {tensor.name for tensor in there}
        for tensor in config[field]:
            if tensor["name"] not in names:
                raise ValueError(f"config.pbtxt has the {field} {tensor['name']!r}; {path.name} has {sorted(names)}")
    used = session.get_providers()[0]
    if used in ON_GPU:
        return Network(DeviceBuffers(session, "cuda", device).run, f"ONNX Runtime, {used} {device}", None)
    return Network(session.run, f"ONNX Runtime, {used}", pool)
