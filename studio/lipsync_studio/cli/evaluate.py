"""`lipsync avatars evaluate`: measures how well an avatar speaks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.cli.common import Json, show


def evaluate(
    avatar: Annotated[str, typer.Argument(help="The avatar's name.")] = "demo",
    repository: Annotated[
        Path | None, typer.Option(help="The model repository. [default: the one of `lipsync serve`]")
    ] = None,
    speech: Annotated[list[Path] | None, typer.Option(help="Speech file; a .json beside it gives phonemes.")] = None,
    film: Annotated[
        list[Path] | None, typer.Option(help="Video of a person who speaks: the mouth is compared with theirs.")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Compare two avatars on one page. Each is a name, an avatar's folder, or a model repository.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the table and the pictures.")] = Path("evaluation"),
    voice: Annotated[str, typer.Option(help="flite's voice with known phonemes; '' for none.")] = "awb",
    count: Annotated[int, typer.Option("--sentences", help="Sentences of that voice.")] = 8,
    seconds: Annotated[float, typer.Option(help="Seconds used of each speech file.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Measure an avatar. Prints a table and writes OUT/table.md with contact sheets beside it.

    With --compare, it writes one page instead, OUT/comparison.html: pictures, curves and figures of both side by side.
    """
    from lipsync_server.pipeline import LocalPipeline
    from lipsync_studio.evaluation import evaluate as evaluation
    from lipsync_studio.evaluation.metric_tables import for_terminal
    from lipsync_studio.prepare.film import read_film

    films = [read_film(path, seconds) for path in film or ()]
    if compare:
        from lipsync_studio.evaluation.comparison import compare as compare_avatars

        speeches = evaluation.speeches_of(speech or (), films, voice=voice, count=count, seconds=seconds)
        page = compare_avatars(compare, speeches, repository, avatar, out)
        show({"page": str(page)}, as_json, str(page))
        return
    found = evaluation.evaluate(
        LocalPipeline(repository, avatar),
        speech or (),
        out,
        films=films,
        voice=voice,
        count=count,
        seconds=seconds,
    )
    show(found, as_json, *map(for_terminal, found.tables), *found.avatar)
