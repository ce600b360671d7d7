"""`lipsync bench`: measures how fast this machine is."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from lipsync_client.cli.common import Json, show
from lipsync_client.errors import LipsyncError
from lipsync_server.benchmark import PARTS, PRESETS
from lipsync_server.benchmark.results import Results
from lipsync_server.serving.server_settings import GpuConfigs


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Use fewer rounds and shorter streams.")] = False,
    presets: Annotated[str, typer.Option(help="Presets to measure.")] = ",".join(PRESETS),
    parts: Annotated[str, typer.Option(help="Parts of the benchmark to run.")] = ",".join(PARTS),
    work: Annotated[Path | None, typer.Option(help="Folder for packed avatars and results.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the results in --work, measure what is missing.")
    ] = False,
    gpu: Annotated[GpuConfigs | None, typer.Option(help="Run the networks in FP16 on the GPUs.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Markdown report to write.")] = None,
    as_json: Json = False,
) -> None:
    """Measure speed and memory of every preset on this machine. Run nothing else on it in the meantime.

    Example: `lipsync bench --quick --presets low --parts throughput`
    """
    from lipsync_server.benchmark.run import measure

    if resume and not work:
        raise LipsyncError("--resume needs --work, the folder of an earlier run.")
    with tempfile.TemporaryDirectory() as temporary:
        results = measure(
            work or Path(temporary),
            presets.split(","),
            parts.split(","),
            output=output,
            resume=resume,
            quick=quick,
            gpu=gpu,
        )
    show({"machine": results.facts, "results": results.parts}, as_json, bench_table(results))


def bench_table(results: Results) -> Table:
    """A short table of the results."""
    table = Table("preset", "frames/s", "first frame, ms", "live streams in time", box=None)
    speeds, streams = results.parts.get("throughput", {}), results.parts.get("streams", {})
    for preset in dict.fromkeys((*speeds, *streams)):
        rate = first = alive = "-"
        if found := speeds.get(preset):
            rate = f"{statistics.median(found['frames_s']['25']):.1f}"
            first = f"{statistics.median(found['first_frame_ms']):.0f}"
        if found := streams.get(preset):
            alive = str(max((load["streams"] for load in found["loads"] if not load["late"]), default=0))
        table.add_row(preset, rate, first, alive)
    return table
