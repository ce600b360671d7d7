"""`lipsync avatars pack`: packs an avatar's source folder into a file, or into a model repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.console import note
from lipsync_server import home


def pack(
    source: Annotated[Path, typer.Argument(help="The avatar's source folder: avatar.yaml, footage, boxes, network.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="A file to write, for `lipsync avatars add` on the server's machine.")
    ] = None,
    repository: Annotated[
        Path | None, typer.Option(help="The model repository to pack for; without --to, also to pack into.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="turbo (INT8, with a head), low (half width, INT8), medium (half width, BF16), high (full width, "
            "INT8) or exact (FP32)."
        ),
    ] = None,
) -> None:
    """Pack an avatar for a server. The packed network is loaded and run before anything is put in place.

    Example: `lipsync avatars pack avatars/anna --to anna.zip`
    """
    from lipsync_composite.assets import key_name
    from lipsync_server.repository.package import package_avatar
    from lipsync_server.repository.source import AvatarSource, SourceError

    repository = repository or home.repository()
    avatar = AvatarSource.read(source)
    avatar = replace(avatar, preset=preset or avatar.preset)
    shipped = avatar.id == "demo"
    if shipped and to:
        raise SourceError("the shipped avatar is in every repository: give yours another id in avatar.yaml")
    key = package_avatar(avatar, repository, shipped=shipped, to=to)
    note(f"{avatar.id}: packed into {to or repository}, key {key_name(key)}")
