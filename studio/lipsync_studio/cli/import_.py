"""`lipsync avatars import`: makes an avatar from networks that were trained elsewhere."""

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
        typer.Option(help="The U-Net's own audio encoder (.pth or .onnx). [default: the shared one]"),
    ] = None,
    mask: Annotated[str | None, typer.Option(help="reference or corners. [default: detected from the network]")] = None,
    audio_mode: Annotated[str, typer.Option(help="The U-Net's audio features. Only ave can be served.")] = "ave",
    blend: Annotated[str, typer.Option(help="soft, or reference: paste the whole box, as SyncTalk_2D does.")] = "soft",
    first: Annotated[int | None, typer.Option(help="First footage frame to use. [default: of a quiet part]")] = None,
    frames: Annotated[
        int | None, typer.Option(help="Footage frames to use, at most. [default: those of the longest idle loop]")
    ] = None,
    name: Annotated[str, typer.Option(help="The name that people see.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of footage and network, for avatar.yaml.")] = "",
    provenance: Annotated[str, typer.Option(help="Who was filmed and agreed, for avatar.yaml.")] = "",
    avatars: Annotated[Path, typer.Option(help="Folder for the avatars' source folders.")] = Path("avatars"),
    replace: Annotated[bool, typer.Option(help="Replace an avatar of this id.")] = False,
) -> None:
    """Make the avatar AVATARS/ID from networks that were trained elsewhere. Then add it with `lipsync avatars add`."""
    from lipsync_server.repository.package import check_avatar_id
    from lipsync_studio.importing.importer import ImportOptions, import_avatar
    from lipsync_studio.prepare.avatar_folder import Attribution
    from lipsync_studio.prepare.idle_loop import LONGEST

    check_avatar_id(avatar_id)  # the id as given: for "", "." or "../x" the name of the path is another one
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
