"""Makes an avatar out of networks that were trained elsewhere, without training: SyncTalk_2D's U-Net and its footage.

    python scripts/import_avatar.py CHECKPOINT FOOTAGE --id anna [--encoder ENCODER] [--mask reference]
    python scripts/package_avatar.py avatars/anna

CHECKPOINT: a SyncTalk_2D `.pth` (strictly), or an ONNX export of it (`input`, `audio` -> `output`). FOOTAGE: a
SyncTalk_2D dataset (full_body_img/, landmarks/*.lms), or a packed one (crop_rects.json or cache/crop_rectangles.json
with frames or a video). Nothing in the files is run: checkpoints are read as tensors only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.progress import track

from lipsync_composite.assets import SMALLEST
from lipsync_composite.blend import BLENDS
from lipsync_server.repository.package import check_avatar_id
from lipsync_server.repository.presets import choose_preset
from lipsync_server.repository.source import Picture, SourceError, face_crop
from lipsync_studio.importing.mask import MASKS, detect_mask
from lipsync_studio.importing.network_file import SUPPORTED, read_encoder, read_unet
from lipsync_studio.prepare.dataset import Dataset, read_dataset
from lipsync_studio.prepare.loop import LONGEST, SHORTEST, Loop, choose_loop, look, mouth_look, unrest_of
from lipsync_studio.prepare.source_folder import write_boxes, write_facts, write_folder, write_footage


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
    check_avatar_id(target.name)
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
