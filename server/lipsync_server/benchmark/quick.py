"""What a machine carries, in a few figures, measured in some twenty seconds for each preset."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import onnx

from lipsync_client import Client
from lipsync_server import home
from lipsync_server.benchmark.streams import live_until_late
from lipsync_server.benchmark.throughput import first_frames_ms
from lipsync_server.repository.model_folders import read_config

FRAMES, CHUNK = 75, 25  # of a speech, and of a request
STREAMS_S = 3.0  # of each number of live streams


def quick_look(url: str, repository: Path, avatar: str, preset: str) -> dict[str, Any]:
    """Frames a second, time to the first frame, live streams that came in time, and how the network is computed."""
    speech = home.read_sample()
    with Client(url, timeout=120) as client:
        rates = []
        for _ in range(3):
            begin = time.perf_counter()
            rendered = client.render(speech[: 640 * FRAMES], avatar=avatar, first_chunk=CHUNK, chunk=CHUNK)
            rates.append(sum(1 for _ in rendered) / (time.perf_counter() - begin))
    return {
        "frames_s": {str(CHUNK): rates[1:]},  # the first warms up
        "first_frame_ms": first_frames_ms(url, preset, 5),
        "loads": live_until_late(url, avatar, speech, STREAMS_S, STREAMS_S),
        "way": way_of(repository / f"{avatar}_lipsync"),
    }


def way_of(folder: Path) -> str:
    """The arithmetic and the engine of a packed network on a CPU."""
    (path,) = folder.glob("[0-9]*/model.onnx")
    config = read_config(folder / "config.pbtxt")
    accelerators = config.optimization.execution_accelerators.cpu_execution_accelerator
    operations = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    arithmetic = "INT8" if "QuantizeLinear" in operations else "FP32"
    for accelerator in accelerators:
        return f"{accelerator.parameters.get('precision') or arithmetic} by OpenVINO"
    return f"{arithmetic} by ONNX Runtime"
