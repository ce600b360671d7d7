"""`lipsync bench`: how fast this machine is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lipsync_server.benchmark.run import PARTS, PRESETS, measure


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds, shorter streams.")] = False,
    presets: Annotated[str, typer.Option(help="Which to measure.")] = ",".join(PRESETS),
    parts: Annotated[str, typer.Option(help="What to measure.")] = ",".join(PARTS),
    work: Annotated[Path | None, typer.Option(help="Folder for packed avatars and results.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the results in --work, measure what is missing.")
    ] = False,
    gpu: Annotated[str | None, typer.Option(help="cuda or tensorrt: networks in FP16 on the GPUs.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The report to write, Markdown.")] = Path(
        "benchmarks.md"
    ),
) -> None:
    """Measure speed and memory of every preset on this machine. Nothing else should run meanwhile."""
    with tempfile.TemporaryDirectory() as temporary:
        measure(
            work or Path(temporary), output, presets.split(","), parts.split(","), resume=resume, quick=quick, gpu=gpu
        )
