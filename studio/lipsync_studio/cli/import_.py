"""`lipsync avatars import`: an avatar from networks that were trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.console import note


def import_(
    unet: Annotated[Path, typer.Argument(help="The U-Net: a SyncTalk_2D checkpoint (.pth) or its ONNX export.")],
    footage: Annotated[Path, typer.Argument(help="A SyncTalk_2D dataset folder, or a packed one.")],
    avatar_id: Annotated[str, typer.Option("--id", help="The avatar's name: a-z, 0-9, _ and -.")],
    encoder: Annotated[
        Path | None,
        typer.Option(help="Its audio encoder (.pth or .onnx), if it was not trained with the shared one."),
    ] = None,
    mask: Annotated[str | None, typer.Option(help="reference or corners; found out if not given.")] = None,
    audio_mode: Annotated[str, typer.Option(help="The U-Net's audio features. Only ave can be served.")] = "ave",
    blend: Annotated[str, typer.Option(help="soft, or reference: the whole box, as SyncTalk_2D pastes.")] = "soft",
    first: Annotated[int | None, typer.Option(help="First footage frame to use; a quiet part if not given.")] = None,
    frames: Annotated[
        int | None, typer.Option(help="Footage frames to use, at most; the longest idle loop if not given.")
    ] = None,
    name: Annotated[str, typer.Option(help="Shown to people.")] = "",
    licence: Annotated[str, typer.Option(help="Of footage and network, for avatar.yaml.")] = "",
    provenance: Annotated[str, typer.Option(help="Who was filmed and agreed, for avatar.yaml.")] = "",
    avatars: Annotated[Path, typer.Option(help="Where the avatar's folder is made.")] = Path("avatars"),
    replace: Annotated[bool, typer.Option(help="Replace an avatar of this id.")] = False,
) -> None:
    """Make the avatar AVATARS/ID from networks trained elsewhere; add it then with `lipsync avatars add`."""
    from lipsync_server.repository.package import check_avatar_id
    from lipsync_studio.importing.importer import ImportOptions, import_avatar
    from lipsync_studio.prepare.avatar_folder import Attribution
    from lipsync_studio.prepare.idle_loop import LONGEST

    check_avatar_id(avatar_id)  # as it was said: of "", "." or "../x" the path's name tells nothing
    found = import_avatar(
        unet,
        footage,
        avatars / avatar_id,
        ImportOptions(encoder, mask, audio_mode, blend, first, frames or LONGEST),
        attribution=Attribution(name, licence, provenance),
        replace=replace,
    )
    for line in found:
        note(line)
    note(f"{avatars / avatar_id} is ready. Next: lipsync avatars add {avatars / avatar_id}")
