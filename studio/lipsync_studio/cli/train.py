"""`lipsync avatars train`: the network of a prepared avatar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.cli.common import show


def train(
    work: Annotated[Path, typer.Argument(help="The training folder that `lipsync avatars prepare` left.")],
    width: Annotated[str, typer.Option(help="half (a third of the time), or full.")] = "half",
    samples: Annotated[int, typer.Option(help="Frames to learn from, each counted as often as it is seen.")] = 60_000,
    hold_out: Annotated[float, typer.Option(help="Seconds at the end that only the evaluation sees.")] = 20.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    avatars: Annotated[Path, typer.Option(help="Where the avatars' folders are.")] = Path("avatars"),
) -> None:
    """Train the network of the avatar that WORK was prepared for, or go on with it."""
    from lipsync_studio.evaluation.metric_tables import for_terminal
    from lipsync_studio.training.avatar import train_avatar

    found = train_avatar(work, width=width, samples=samples, hold_out=hold_out, device=device, avatars=avatars)
    if found:
        show(found, False, *map(for_terminal, found.tables), *found.avatar)
