"""The benchmark's plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def plot_streams(found: dict[str, Any], path: Path) -> None:
    """Write the latency and the frames in time against the live streams, by preset, as a PNG file.

    Args:
        found: what the benchmark's part streams found.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for preset, measured in found.items():
        loads = {load["streams"]: load for load in measured["loads"]}  # of two runs the longer one
        streams = sorted(loads)
        left.plot(streams, [loads[n]["p95"] for n in streams], marker="o", label=f"{preset}, p95")
        in_time = [25 * n * (1 - loads[n]["late"] / loads[n]["frames"]) for n in streams]
        right.plot(streams, in_time, marker="o", label=preset)
    left.axhline(320, color="grey", linestyle=":", label="a chunk's time")
    left.set(xlabel="live streams", ylabel="latency of a chunk of 8, ms", yscale="log")
    right.set(xlabel="live streams", ylabel="frames in time, a second")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=110)
