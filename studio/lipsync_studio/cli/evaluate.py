"""`lipsync avatars evaluate`: how well an avatar speaks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.cli.common import Json, show


def evaluate(
    avatar: Annotated[str, typer.Argument(help="Its id.")] = "demo",
    repository: Annotated[Path | None, typer.Option(help="A built model repository.")] = None,
    speech: Annotated[list[Path] | None, typer.Option(help="Speech; phonemes in a .json beside it are used.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the table and the pictures.")] = Path("evaluation"),
    voice: Annotated[str, typer.Option(help="flite voice with known phonemes; '' for none.")] = "awb",
    count: Annotated[int, typer.Option("--sentences", help="of that voice")] = 8,
    seconds: Annotated[float, typer.Option(help="of each speech file")] = 30.0,
    as_json: Json = False,
) -> None:
    """Measure an avatar: a table on the screen and in OUT/table.md, contact sheets beside it."""
    from lipsync_server.pipeline import LocalPipeline
    from lipsync_studio.evaluation import evaluate as evaluation
    from lipsync_studio.evaluation.metric_tables import for_terminal

    found = evaluation.evaluate(
        LocalPipeline(repository, avatar),
        speech or (),
        out,
        voice=voice,
        count=count,
        seconds=seconds,
    )
    show(found, as_json, *map(for_terminal, found.tables), *found.avatar)
