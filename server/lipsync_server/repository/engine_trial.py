"""Chooses the arithmetic and the engine of an avatar's network: the fastest here that its preset allows.

They are run in a process of its own. What was found is kept in the user's cache folder, so that a second avatar of the
same kind is not measured again.

python -m lipsync_server.repository.engine_trial FOLDER WAY..
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import TensorProto

from lipsync_client.console import note, notes
from lipsync_client.errors import LipsyncError
from lipsync_client.folders import cache_folder
from lipsync_onnx.cpu import cpu_kind
from lipsync_onnx.engines import has_bf16, has_openvino, measured, with_engine
from lipsync_onnx.session import ACCELERATORS, open_network
from lipsync_onnx.trial import Findings, Measure, Outcome, fastest, trial_key
from lipsync_server.repository.presets import Way, ways_of

SECONDS = 300  # for all ways
TYPES: dict[int, str] = {TensorProto.FLOAT: "TYPE_FP32", TensorProto.UINT8: "TYPE_UINT8"}

Run = Callable[[Mapping[str, onnx.ModelProto], list[Way]], Outcome]


def choose_way(avatar: str, preset: str, networks: Mapping[str, onnx.ModelProto]) -> tuple[Way, str | None]:
    """How a CPU runs an avatar's network: the fastest way here that the preset allows; told in a note.

    Where a GPU serves, or OpenVINO is missing, nothing is tried.

    Args:
        avatar: its name, for the note.
        preset: a name of `PRESETS`.
        networks: what is served, by "INT8" (of presets that allow it) and "FP32"; all inputs are zeros in the trial.

    Returns:
        the way, and the kind of this CPU if the way was chosen by a trial.
    """
    if ACCELERATORS["cuda"] in ort.get_available_providers() or not has_openvino():
        return ways_of(preset)[0], None
    ways = [way for way in ways_of(preset) if way.arithmetic != "BF16" or has_bf16()]
    try:
        found = findings().find(_key(preset, networks, ways), lambda: _tried(networks, ways))
    except ValueError as error:
        note(f"{avatar}: {error}: it runs in {ways_of(preset)[0]}")
        return ways_of(preset)[0], None
    note(f"{avatar} runs in {found}")
    return next((way for way in ways if str(way) == found.chosen), ways[0]), cpu_kind()


def findings() -> Findings:
    """What trials found on this machine."""
    try:
        return Findings(cache_folder() / "trials.json")
    except LipsyncError:
        return Findings()


def _key(preset: str, networks: Mapping[str, onnx.ModelProto], ways: list[Way]) -> str:
    digest = hashlib.sha256()
    for arithmetic in sorted(networks):
        digest.update(_structure(networks[arithmetic]).encode())
    return trial_key(map(str, ways), "pack", preset, digest.hexdigest()[:12])


def _structure(network: onnx.ModelProto) -> str:
    """A network's operations and the sizes of its tensors, without its weights."""
    graph = network.graph
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    operations = [(node.op_type, [str(attribute) for attribute in node.attribute]) for node in nodes]
    inputs = [str(info.type) for info in graph.input]
    return repr((operations, inputs, [(tensor.data_type, list(tensor.dims)) for tensor in graph.initializer]))


def _tried(networks: Mapping[str, onnx.ModelProto], ways: list[Way]) -> Outcome:
    """Run the ways in a process of its own. Raises ValueError: that failed."""
    with tempfile.TemporaryDirectory() as name, notes.status("trying how this CPU runs the network fastest"):
        for arithmetic, network in networks.items():
            onnx.save(network, Path(name) / f"{arithmetic}.onnx")
        command = [sys.executable, "-m", "lipsync_server.repository.engine_trial", name, *map(str, ways)]
        try:
            trial = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ValueError(f"the trial took longer than {SECONDS} s") from None
    if trial.returncode:
        last = trial.stderr.strip().splitlines()[-1:] or [f"its process ended with status {trial.returncode}"]
        raise ValueError(f"the trial failed ({last[0]})")
    return Outcome(**json.loads(trial.stdout))


def _open(folder: Path, way: Way) -> Measure:
    """Open a network as a stage would."""
    path = folder / f"{way.network}.onnx"
    graph = onnx.load(path).graph
    config = {
        "max_batch_size": 1,
        "input": [
            {
                "name": info.name,
                "data_type": TYPES[info.type.tensor_type.elem_type],
                "dims": [dim.dim_value for dim in info.type.tensor_type.shape.dim[1:]],
            }
            for info in graph.input
        ],
        "output": [{"name": info.name} for info in graph.output],
    }
    config = with_engine(config, way.engine)
    return measured(open_network(config, path, "CPU", 0), config)


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    ways = {name: partial(_open, folder, Way.named(name)) for name in names}
    print(json.dumps(asdict(fastest(ways))))


if __name__ == "__main__":
    main()
