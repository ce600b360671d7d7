"""`lipsync avatars prepare`: makes the input of a training from videos of a person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.console import note


def prepare(
    videos: Annotated[list[Path], typer.Argument(help="Videos or SyncTalk_2D datasets, all of one person.")],
    avatar_id: Annotated[str, typer.Option("--id", help="The avatar's name: a-z, 0-9, _ and -.")],
    sound_offset: Annotated[
        float, typer.Option(help="Seconds by which the sound is later than the lips (negative: earlier).")
    ] = 0.0,
    name: Annotated[str, typer.Option(help="The name that people see.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the footage, for avatar.yaml.")] = "",
    provenance: Annotated[str, typer.Option(help="Who was filmed and agreed, for avatar.yaml.")] = "",
    avatars: Annotated[Path, typer.Option(help="Folder for the avatars' source folders.")] = Path("avatars"),
    work: Annotated[
        Path | None, typer.Option(help="The training folder. [default: work/ID]", show_default=False)
    ] = None,
    replace: Annotated[
        bool, typer.Option(help="Replace an avatar of this id. Its networks and texts are kept.")
    ] = False,
) -> None:
    """Find the face in every frame, check the footage and choose an idle loop. Writes AVATARS/ID and WORK."""
    from lipsync_server.repository.package import check_avatar_id
    from lipsync_studio.prepare.avatar_folder import Attribution
    from lipsync_studio.prepare.prepare import prepare_avatar

    folder = work or Path("work") / avatar_id
    check_avatar_id(avatar_id)  # the id as given: for "", "." or "../x" the name of the path is another one
    findings = prepare_avatar(
        videos,
        avatars / avatar_id,
        folder,
        attribution=Attribution(name, licence, provenance),
        sound_offset=sound_offset,
        replace=replace,
    )
    for finding in findings:
        note(f"- {finding}")
    note(f"Look at {folder / 'preview.png'}. Next: lipsync avatars train {folder}")
