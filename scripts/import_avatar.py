"""Makes an avatar out of networks that were trained elsewhere, without training: SyncTalk_2D's U-Net and its footage.

    python scripts/import_avatar.py CHECKPOINT FOOTAGE --id anna [--encoder ENCODER] [--mask reference]
    python scripts/package_avatar.py avatars/anna

CHECKPOINT: a SyncTalk_2D `.pth` (strictly), or an ONNX export of it (`input`, `audio` -> `output`). FOOTAGE: a
SyncTalk_2D dataset (full_body_img/, landmarks/*.lms), or a packed one (crop_rects.json or cache/crop_rectangles.json
with frames or a video). Nothing in the files is run: checkpoints are read as tensors only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from numpy.typing import NDArray
from rich.progress import track
import stages
from assets import SMALLEST
from avatar_source import Picture, SourceError, face_crop
from blend import BLENDS
from importing.mask import MASKS, detect_mask
from importing.network_file import SUPPORTED, read_encoder, read_unet
from package_avatar import choose_preset, model_names
from preparing.dataset import Dataset, read_dataset
from preparing.loop import LONGEST, SHORTEST, Loop, choose_loop, look, mouth_look, unrest_of
from preparing.source_folder import write_boxes, write_facts, write_folder, write_footage


def import_avatar(
    unet: Path,
    footage: Path,
    target: Path,
    *,
    encoder: Path | None = None,
    mask: str | None = None,
    audio_mode: str = SUPPORTED,
    blend: str = "soft",
    first: int | None = None,
    frames: int = LONGEST,
    name: str = "",
    licence: str = "",
    provenance: str = "",
    replace: bool = False,
) -> list[str]:
    """Write the source folder `target`, whose name is the avatar's id.

    Args:
        unet, encoder: checkpoints or exports; without an encoder the avatar hears through the shared one.
        footage: see `preparing.dataset`.
        mask: a name of `MASKS`; None: found out from the network.
        first, frames: the part of the footage to use, walked there and back as the reference does; without `first`,
            a quiet part of at most `frames` is chosen.

    Returns:
        sentences on what was found.

    Raises:
        SourceError: a file is not what it should be; nothing was written.
    """
    model_names(target.name)
    if mask not in (None, *MASKS):
        raise SourceError(f"mask is {mask!r}: it must be {' or '.join(MASKS)}")
    if blend not in BLENDS:
        raise SourceError(f"blend is {blend!r}: it must be {' or '.join(BLENDS)}")
    network = read_unet(unet, audio_mode)
    own_encoder = read_encoder(encoder) if encoder else None
    data = read_dataset(footage)
    loop, crops = _choose(data, first, frames)
    chosen = mask or detect_mask(network, crops)
    if chosen is None:
        raise SourceError(
            f"{unet}: the network does not tell which mask it was trained with: say --mask {' or '.join(MASKS)}"
        )

    def fill(folder: Path) -> None:
        part = data.frames(loop.first, loop.frames)
        write_footage(folder / "footage.mp4", track(part, "footage", loop.frames, transient=True), exact=True)
        write_boxes(folder / "boxes.csv", data.boxes[loop.first : loop.first + loop.frames])
        onnx.save(network, folder / "unet.onnx")
        if own_encoder is not None:
            onnx.save(own_encoder, folder / "encoder.onnx")
        facts: dict[str, object] = {
            "id": target.name,
            "name": name or target.name,
            "licence": licence or "not stated: ask who owns the footage and the checkpoint",
            "provenance": provenance or f"Imported from {unet.name} and {footage.name}.",
            "footage": "footage.mp4",
            "boxes": "boxes.csv",
            "unet": "unet.onnx",
            **({"encoder": "encoder.onnx"} if own_encoder is not None else {}),
            "loop": loop.kind,
            "mask": list(MASKS[chosen]),
            "blend": blend,
            "preset": "exact" if choose_preset(network, None) == "high" else "medium",  # no INT8: what was trained
        }
        write_facts(folder / "avatar.yaml", facts, "Written by scripts/import_avatar.py")

    write_folder(target, fill, replace)
    return [
        f"footage: frames {loop.first} to {loop.first + loop.frames - 1} of {len(data.boxes)}, loop {loop.kind}",
        f"mask: {chosen} {list(MASKS[chosen])}, {'as you said' if mask else 'as the network shows'}",
        f"audio encoder: {'its own' if own_encoder is not None else 'the shared one'}",
    ]


def _choose(data: Dataset, first: int | None, frames: int) -> tuple[Loop, NDArray[np.uint8]]:
    """The part of the footage to use, and some face crops of it."""
    total = len(data.boxes)
    if first is None:
        if frames < SHORTEST:
            raise SourceError(f"frames is {frames}: it must be at least {SHORTEST}, or say --first too")
        looks, mouths = [], []
        shown = track(data.frames(), "looking at the footage", total, transient=True)
        for number, (frame, box) in enumerate(zip(shown, data.boxes, strict=True)):
            mouths.append(mouth_look(_crop(data, number, frame)))
            looks.append(look(frame, box))
        loop = choose_loop(np.stack(looks), unrest_of(mouths), np.ones(total, bool), frames)
    else:
        if not 0 <= first < total or frames < 1:
            raise SourceError(f"frames {first} to {first + frames - 1} are not in the footage: it has {total}")
        loop = Loop(first, min(frames, total - first), "pingpong")
    part = enumerate(data.frames(loop.first, loop.frames), loop.first)
    every = max(1, loop.frames // 8)
    return loop, np.stack([_crop(data, i, frame) for i, frame in part if (i - loop.first) % every == 0])


def _crop(data: Dataset, number: int, frame: Picture) -> Picture:
    x, y, size = data.boxes[number]
    height, width = frame.shape[:2]
    if size < SMALLEST or min(x, y) < 0 or x + size > width or y + size > height:
        raise SourceError(
            f"{data.folder}: frame {number} is {width} x {height}, but its crop box is x={x} y={y} size={size}: "
            f"it must lie inside and be at least {SMALLEST} wide"
        )
    return face_crop(frame, data.boxes[number])


def main() -> None:
    def run(
        unet: Annotated[Path, typer.Argument(help="The U-Net: a SyncTalk_2D checkpoint (.pth) or its ONNX export.")],
        footage: Annotated[Path, typer.Argument(help="A SyncTalk_2D dataset folder, or a packed one.")],
        avatar_id: Annotated[str, typer.Option("--id", help="The avatar's name: a-z, 0-9, _ and -.")],
        encoder: Annotated[
            Path | None,
            typer.Option(help="Its audio encoder (.pth or .onnx), if it was not trained with the shared one."),
        ] = None,
        mask: Annotated[str | None, typer.Option(help="reference or corners; found out if not given.")] = None,
        audio_mode: Annotated[str, typer.Option(help="What the U-Net hears. Only ave can be served.")] = SUPPORTED,
        blend: Annotated[str, typer.Option(help="soft, or reference: the whole box, as SyncTalk_2D pastes.")] = "soft",
        first: Annotated[
            int | None, typer.Option(help="First footage frame to use; a quiet part if not given.")
        ] = None,
        frames: Annotated[int, typer.Option(help="Footage frames to use, at most.")] = LONGEST,
        name: Annotated[str, typer.Option(help="Shown to people.")] = "",
        licence: Annotated[str, typer.Option(help="Of footage and network, for avatar.yaml.")] = "",
        provenance: Annotated[str, typer.Option(help="Who was filmed and agreed, for avatar.yaml.")] = "",
        avatars: Annotated[Path, typer.Option(help="Where the avatar's folder is made.")] = stages.ROOT / "avatars",
        replace: Annotated[bool, typer.Option(help="Replace an avatar of this id.")] = False,
    ) -> None:
        """Make the avatar AVATARS/ID from networks trained elsewhere; pack it then with package_avatar.py."""
        try:
            model_names(avatar_id)  # as it was said: of "", "." or "../x" the path's name tells nothing
            notes = import_avatar(
                unet,
                footage,
                avatars / avatar_id,
                encoder=encoder,
                mask=mask,
                audio_mode=audio_mode,
                blend=blend,
                first=first,
                frames=frames,
                name=name,
                licence=licence,
                provenance=provenance,
                replace=replace,
            )
        except (SourceError, ValueError, OSError) as error:
            raise SystemExit(f"import_avatar: {error}") from None
        print(*notes, sep="\n")
        print(f"{avatars / avatar_id} is ready. Next: python scripts/package_avatar.py {avatars / avatar_id}")

    typer.run(run)


if __name__ == "__main__":
    main()
