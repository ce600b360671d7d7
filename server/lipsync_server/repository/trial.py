"""Loads a packed network as the server's stage will, in a process of its own, and runs it: is it served, and how large?

python -m lipsync_server.repository.trial model_repository/anna_lipsync
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

SECONDS = 300
ROWS = 4  # as many as the backend runs at once on a CPU


def stage_memory_mb(folder: Path) -> int:
    """Load and run an avatar's network.

    Args:
        folder: the model folder, with its config.pbtxt.

    Returns:
        the memory in MiB that a stage with this network holds for itself on a CPU; the face crops, mapped from their
        file, not counted.

    Raises:
        ValueError: it cannot be served; the message is the backend's reason.
    """
    try:
        trial = subprocess.run(
            [sys.executable, "-m", "lipsync_server.repository.trial", str(folder)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"the packed network did not run within {SECONDS} s") from None
    if trial.returncode:
        last = trial.stderr.strip().splitlines()[-1:] or [f"its process ended with status {trial.returncode}"]
        raise ValueError(f"the packed network cannot be served: {last[0].removeprefix('ValueError: ')}")
    return int(trial.stdout)


def main() -> None:
    from lipsync_onnx.session import open_network

    folder = Path(sys.argv[1])
    message = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    config = json_format.MessageToDict(message, preserving_proto_field_name=True)
    (path,) = folder.glob("[0-9]*/model.onnx")
    network = open_network(config, path, "CPU", 0)
    inputs: dict[str, NDArray[Any]] = {
        "audio_features": np.zeros((1, 32, 16, 16), np.float32),
        "footage_position": np.zeros((1, 1), np.int64),
    }
    assert network.pool is not None
    outcomes = network.pool.map(lambda _: network.run(["mouth", "avatar_key"], inputs), range(ROWS))
    wanted = int(config["parameters"]["avatar_key"]["string_value"])
    for mouth, key in outcomes:
        if mouth.shape != (1, 320, 320, 3) or mouth.dtype != np.uint8 or key.tolist() != [[wanted]]:
            raise ValueError(f"it gives mouths {mouth.dtype} {mouth.shape} and key {key.tolist()}, not {wanted}")
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"RssAnon:\s+(\d+)", status)[1]) // 1024)  # type: ignore[index]


if __name__ == "__main__":
    main()
