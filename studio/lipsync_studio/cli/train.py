"""`lipsync avatars train`: trains the network of a prepared avatar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.cli.common import show
from lipsync_client.errors import InvalidRequest

QUICK = 2_000  # samples


def train(
    work: Annotated[Path, typer.Argument(help="The training folder of `lipsync avatars prepare`.")],
    width: Annotated[str, typer.Option(help="The network's width: half (a third of the time) or full.")] = "half",
    samples: Annotated[
        int | None,
        typer.Option(
            help="Training samples; a frame counts each time it is seen. By default 20000 where it begins with the"
            " demo's network, else 60000."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK} samples: a face that talks, in minutes.")] = False,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Begin from nothing, not with the demo's network (half width).")
    ] = False,
    hold_out: Annotated[float, typer.Option(help="Seconds at the end that only the evaluation uses.")] = 20.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    avatars: Annotated[Path, typer.Option(help="Folder of the avatars' source folders.")] = Path("avatars"),
) -> None:
    """Train the network of the avatar that WORK was prepared for, or continue a training."""
    from lipsync_studio.evaluation.metric_tables import for_terminal
    from lipsync_studio.training.avatar import train_avatar

    if quick and samples is not None:
        raise InvalidRequest("--quick says how many samples: leave one of --quick and --samples out")
    chosen = QUICK if quick else samples
    found = train_avatar(
        work, width=width, samples=chosen, scratch=scratch, hold_out=hold_out, device=device, avatars=avatars
    )
    if found:
        show(found, False, *map(for_terminal, found.tables), *found.avatar)
