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
from lipsync_server.benchmark import PARTS, PRESETS, QUICK
from lipsync_server.benchmark.packed import demo_presets
from lipsync_server.benchmark.results import Results
from lipsync_server.serving.server_settings import GpuConfigs


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="A short look of a minute or two; with --parts: fewer rounds.")
    ] = False,
    presets: Annotated[
        str | None, typer.Option(help=f"Presets to measure, of {', '.join(PRESETS)}; by default all of the demo.")
    ] = None,
    parts: Annotated[
        str | None, typer.Option(help=f"Parts of the benchmark to run, of {', '.join(PARTS)}; by default all.")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for packed avatars and results.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the results in --work, measure what is missing.")
    ] = False,
    gpu: Annotated[GpuConfigs | None, typer.Option(help="Run the networks in FP16 on the GPUs.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Markdown report to write.")] = None,
    as_json: Json = False,
) -> None:
    """Measure speed and memory of every preset on this machine. Run nothing else on it in the meantime.

    Example: `lipsync bench --quick`
    """
    from lipsync_server.benchmark.run import measure

    if resume and not work:
        raise LipsyncError("--resume needs --work, the folder of an earlier run.")
    with tempfile.TemporaryDirectory() as temporary:
        results = measure(
            work or Path(temporary),
            presets.split(",") if presets else demo_presets(),
            parts.split(",") if parts else [QUICK] if quick else list(PARTS),
            output=output,
            resume=resume,
            quick=quick,
            gpu=gpu,
        )
    show({"machine": results.facts, "results": results.parts}, as_json, bench_table(results))


def bench_table(results: Results) -> Table:
    """A short table of the results."""
    looks = results.parts.get(QUICK, {})
    titles = ["preset", "frames/s", "first frame, ms", "live streams in time", *(["computed in"] if looks else [])]
    table = Table(*titles, box=None)
    speeds, streams = results.parts.get("throughput", {}) | looks, results.parts.get("streams", {}) | looks
    for preset in dict.fromkeys((*speeds, *streams)):
        rate = first = alive = "-"
        if found := speeds.get(preset):
            rate = f"{statistics.median(found['frames_s']['25']):.1f}"
            first = f"{statistics.median(found['first_frame_ms']):.0f}"
        if found := streams.get(preset):
            alive = str(max((load["streams"] for load in found["loads"] if not load["late"]), default=0))
        way = [looks[preset]["way"]] if preset in looks else []
        table.add_row(preset, rate, first, alive, *way)
    return table
