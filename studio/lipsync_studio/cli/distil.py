"""`lipsync avatars distil`: gives an avatar the preset turbo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.cli.common import Json, show
from lipsync_client.errors import LipsyncError


def distil(
    avatar: Annotated[str, typer.Argument(help="The avatar's name: a source folder in --avatars.")],
    steps: Annotated[int, typer.Option(help="Training steps in all.")] = 3000,
    speech: Annotated[list[Path] | None, typer.Option(help="A further speech file to measure it on.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Pack it also if it is not close enough.")] = False,
    avatars: Annotated[Path, typer.Option(help="Folder of the avatars' source folders.")] = Path("avatars"),
    work: Annotated[Path, typer.Option(help="Folder for what is kept until it is done.")] = Path("work"),
    as_json: Json = False,
) -> None:
    """Replace the last stage of an avatar's network by a small head, which is faster, and pack the avatar with it.

    The same command continues after Ctrl-C. It prints how close the pictures are, and writes a sheet of them.
    """
    from lipsync_studio.distillation.distil import distil as distilled
    from lipsync_studio.evaluation.metric_tables import for_terminal

    found = distilled(avatars / avatar, work / avatar, steps=steps, speech=speech or (), anyway=anyway)
    if found is None:
        return
    show(found, as_json, for_terminal(found.table), f"Look at {found.work}/sheet.png.", *found.failures)
    if not found.packed:
        raise LipsyncError(f"{avatar} was not packed. Train it with more --steps, or give --anyway.")
