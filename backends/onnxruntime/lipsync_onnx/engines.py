"""Chooses the engine of a network that was packed on another kind of CPU, by a trial on this one."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from lipsync_onnx.cpu import cpu_kind
from lipsync_onnx.session import ACCELERATORS, Network, accelerators, open_network, parameters, thread_budget
from lipsync_onnx.trial import Findings, Measure, fastest, rows_a_second, trial_key

TYPES = {"TYPE_FP32": np.float32, "TYPE_INT64": np.int64, "TYPE_UINT8": np.uint8}
OPENVINO, BF16, ONNXRUNTIME = "OpenVINO", "OpenVINO in BF16", "ONNX Runtime"
ENTRIES: dict[str, list[dict[str, Any]]] = {  # how a config asks for each
    OPENVINO: [{"name": "openvino"}],
    BF16: [{"name": "openvino", "parameters": {"precision": "BF16"}}],
    ONNXRUNTIME: [],
}


def has_openvino() -> bool:
    """Whether the openvino wheel runs networks here: it does not where onnxruntime brings OpenVINO itself."""
    return bool(importlib.util.find_spec("openvino")) and ACCELERATORS["openvino"] not in ort.get_available_providers()


def has_bf16() -> bool:
    """Whether OpenVINO computes in BF16 here."""
    if not has_openvino():
        return False
    from lipsync_onnx.openvino_network import computes_bf16

    return computes_bf16()


def engines_for(config: Mapping[str, Any]) -> list[str]:
    """The engines that may run a network on a CPU, that of the config first; only that where there is no choice.

    BF16 is among them where its accuracy is meant: the config asks for it, or the avatar's preset is medium.
    """
    stated = [(entry["name"], entry.get("parameters") or None) for entry in accelerators(config, "CPU")]
    known = {name: [(one["name"], one.get("parameters")) for one in entries] for name, entries in ENTRIES.items()}
    first = next((name for name, entries in known.items() if entries == stated), None)
    if first is None or not has_openvino():
        return [first or ONNXRUNTIME]
    bf16 = first == BF16 or parameters(config).get("preset") == "medium"
    allowed = [first, *(name for name in ENTRIES if name != first)]
    return [name for name in allowed if name != BF16 or (bf16 and has_bf16())]


def with_engine(config: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """A config that asks for this engine on a CPU."""
    optimization = dict(config.get("optimization", {}))
    optimization["execution_accelerators"] = {"cpu_execution_accelerator": ENTRIES[engine]}
    return dict(config) | {"optimization": optimization}


def measured(network: Network, config: Mapping[str, Any]) -> Measure:
    """Measures a network as requests run it: a row alone on each of its workers."""
    inputs = {
        tensor["name"]: np.zeros((1, *map(int, tensor["dims"])), TYPES[tensor["data_type"]])
        for tensor in config["input"]
    }
    outputs = [tensor["name"] for tensor in config["output"]]
    return rows_a_second(partial(network.run, outputs, inputs), thread_budget(config)[0])


def open_fastest(config: Mapping[str, Any], path: Path, kind: str, device: int) -> Network:
    """As `open_network`. But where the config states that its engine was chosen on another kind of CPU (`trial_cpu`),
    the fastest engine on this one is found by a trial, and opened.

    Raises:
        ValueError: as `open_network`, or no engine runs the network.
    """
    packed_on = parameters(config).get("trial_cpu")
    names = engines_for(config) if kind == "CPU" and packed_on and packed_on != cpu_kind() else []
    if len(names) < 2 or not path.is_file():
        return open_network(config, path, kind, device)
    networks: dict[str, Network] = {}

    def start(name: str) -> Measure:
        networks[name] = open_network(with_engine(config, name), path, "CPU", 0)
        return measured(networks[name], config)

    key = trial_key(names, "load", parameters(config).get("preset", ""), _structure(path))
    found = Findings().find(key, lambda: fastest({name: partial(start, name) for name in names}))
    network = networks.get(found.chosen) or open_network(with_engine(config, found.chosen), path, "CPU", 0)
    return replace(network, trial=f"packed on another kind of CPU; the fastest here: {found}")


def _structure(path: Path) -> str:
    """A short hash of a network's operations and their shapes; its weights, and an avatar's footage, do not count."""
    import openvino

    digest = hashlib.sha256()
    for operation in openvino.Core().read_model(path).get_ordered_ops():
        if operation.get_type_name() != "Constant":
            shapes = [str(output.get_partial_shape()) for output in operation.outputs()]
            digest.update(f"{operation.get_type_name()} {shapes}\n".encode())
    return digest.hexdigest()[:12]
