"""Makes an avatar of SyncTalk_2D's U-Net and footage, without training.

    lipsync avatars import CHECKPOINT FOOTAGE --id anna [--encoder ENCODER] [--mask reference]
    lipsync avatars add avatars/anna

CHECKPOINT is a SyncTalk_2D `.pth`, which must fit exactly, or an ONNX export of it (`input`, `audio` -> `output`).
FOOTAGE is a SyncTalk_2D dataset or a packed one, see `prepare.dataset`. No code in the files is run: checkpoints are
read as tensors only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.progress import track

from lipsync_client.console import notes
from lipsync_composite.assets import SMALLEST
from lipsync_composite.paste import BLENDS
from lipsync_server.repository.package import check_avatar_id
from lipsync_server.repository.presets import choose_preset
from lipsync_server.repository.source import Picture, SourceError, face_crop
from lipsync_studio.importing.mask import MASKS, detect_mask
from lipsync_studio.importing.network_file import SUPPORTED, read_encoder, read_unet
from lipsync_studio.prepare.avatar_folder import Attribution, write_boxes, write_facts, write_folder, write_footage
from lipsync_studio.prepare.dataset import Dataset, read_dataset
from lipsync_studio.prepare.idle_loop import LONGEST, SHORTEST, Loop, choose_loop, look, mouth_look, unrest_of

EXAMPLES = 8  # face crops that the mask is detected with


@dataclass(frozen=True)
class ImportOptions:
    """The choices of an import.

    Attributes:
        encoder: the audio encoder's checkpoint or export; None: the avatar uses the shared encoder.
        mask: a name of `mask.MASKS`; None: detected from the network.
        audio_mode: the kind of audio features that the U-Net was trained with.
        blend: a name of `lipsync_composite.paste.BLENDS`.
        first: first footage frame to use, with as many after it as `frames` says, played forwards and backwards as
            the reference does; None: a quiet part of at most `frames` is chosen.
        frames: number of footage frames, at most.
    """

    encoder: Path | None = None
    mask: str | None = None
    audio_mode: str = SUPPORTED
    blend: str = "soft"
    first: int | None = None
    frames: int = LONGEST

    def check(self) -> None:
        """Raises SourceError if a mask or a blend of that name does not exist."""
        if self.mask not in (None, *MASKS):
            raise SourceError(f"mask is {self.mask!r}: it must be {' or '.join(MASKS)}")
        if self.blend not in BLENDS:
            raise SourceError(f"blend is {self.blend!r}: it must be {' or '.join(BLENDS)}")


@dataclass(frozen=True)
class ImportPlan:
    """Everything that an import writes: networks, footage with its loop, mask and blend.

    Attributes:
        network: the plain U-Net.
        encoder: the avatar's own audio encoder; None if it uses the shared one.
        mask: a name of `mask.MASKS`.
        findings: sentences for the user on what was found and chosen.
    """

    network: onnx.ModelProto
    encoder: onnx.ModelProto | None
    data: Dataset
    loop: Loop
    mask: str
    blend: str
    findings: tuple[str, ...]

    def facts(self) -> dict[str, object]:
        """The part of avatar.yaml that the plan decides."""
        return {
            "footage": "footage.mp4",
            "boxes": "boxes.csv",
            "unet": "unet.onnx",
            **({"encoder": "encoder.onnx"} if self.encoder is not None else {}),
            "loop": self.loop.kind,
            "mask": list(MASKS[self.mask]),
            "blend": self.blend,
            # No INT8, so that the avatar looks as it was trained.
            "preset": "exact" if choose_preset(self.network, None) == "high" else "medium",
        }


def import_avatar(
    unet: Path,
    footage: Path,
    target: Path,
    options: ImportOptions | None = None,
    *,
    attribution: Attribution | None = None,
    replace: bool = False,
) -> list[str]:
    """Write the source folder `target`, whose name is the avatar's id.

    Args:
        unet: the U-Net's checkpoint or export.
        footage: see `prepare.dataset`.
        replace: replace a folder that exists.

    Returns:
        sentences on what was found and chosen.

    Raises:
        SourceError: an option or a file is wrong; nothing was written.
    """
    check_avatar_id(target.name)
    plan = plan_import(unet, footage, options or ImportOptions())
    facts: dict[str, object] = {
        "id": target.name,
        "name": target.name,
        "licence": "not stated: ask who owns the footage and the checkpoint",
        "provenance": f"Imported from {unet.name} and {footage.name}.",
        **(attribution or Attribution()).stated(),
        **plan.facts(),
    }
    write_import(plan, target, facts, replace)
    return list(plan.findings)


def plan_import(unet: Path, footage: Path, options: ImportOptions) -> ImportPlan:
    """Read the files and choose what the options leave open.

    Raises:
        SourceError: an option or a file is wrong.
    """
    options.check()
    network = read_unet(unet, options.audio_mode)
    encoder = read_encoder(options.encoder) if options.encoder else None
    data = read_dataset(footage)
    loop = _choose_loop(data, options)
    crops = _example_crops(data, loop)
    mask = options.mask or detect_mask(network, crops)
    if mask is None:
        raise SourceError(
            f"{unet}: the mask that the network was trained with cannot be detected: give --mask {' or '.join(MASKS)}"
        )
    findings = (
        f"footage: frames {loop.first} to {loop.first + loop.frames - 1} of {len(data.boxes)}, loop {loop.kind}",
        f"mask: {mask} {list(MASKS[mask])}, {'as given' if options.mask else 'detected from the network'}",
        f"audio encoder: {'its own' if encoder is not None else 'the shared one'}",
    )
    return ImportPlan(network, encoder, data, loop, mask, options.blend, findings)


def write_import(plan: ImportPlan, target: Path, facts: dict[str, object], replace: bool) -> None:
    """Write the source folder, completely or not at all.

    Args:
        facts: the content of avatar.yaml.

    Raises:
        SourceError: the folder exists and `replace` is false, or a frame cannot be read.
    """
    data, loop = plan.data, plan.loop

    def fill(folder: Path) -> None:
        part = data.frames(loop.first, loop.frames)
        write_footage(
            folder / "footage.mp4", track(part, "footage", loop.frames, transient=True, console=notes), exact=True
        )
        write_boxes(folder / "boxes.csv", data.boxes[loop.first : loop.first + loop.frames])
        onnx.save(plan.network, folder / "unet.onnx")
        if plan.encoder is not None:
            onnx.save(plan.encoder, folder / "encoder.onnx")
        write_facts(folder / "avatar.yaml", facts, "Written by lipsync avatars import")

    write_folder(target, fill, replace)


def _choose_loop(data: Dataset, options: ImportOptions) -> Loop:
    """The part of the footage to use."""
    total, first, frames = len(data.boxes), options.first, options.frames
    if first is not None:
        if not 0 <= first < total or frames < 1:
            raise SourceError(f"frames {first} to {first + frames - 1} are not in the footage: it has {total}")
        return Loop(first, min(frames, total - first), "pingpong")
    if frames < SHORTEST:
        raise SourceError(f"frames is {frames}: it must be at least {SHORTEST}, or give --first too")
    looks, mouths = [], []
    pictures = track(data.frames(), "reading the footage", total, transient=True, console=notes)
    for number, (frame, box) in enumerate(zip(pictures, data.boxes, strict=True)):
        mouths.append(mouth_look(_crop(data, number, frame)))
        looks.append(look(frame, box))
    return choose_loop(np.stack(looks), unrest_of(mouths), np.ones(total, bool), frames)


def _example_crops(data: Dataset, loop: Loop) -> NDArray[np.uint8]:
    """Some face crops of the loop, UINT8 [n,320,320,3].

    Raises:
        SourceError: a crop box is not inside its frame.
    """
    every = max(1, loop.frames // EXAMPLES)
    part = enumerate(data.frames(loop.first, loop.frames), loop.first)
    return np.stack([_crop(data, i, frame) for i, frame in part if (i - loop.first) % every == 0])


def _crop(data: Dataset, number: int, frame: Picture) -> Picture:
    x, y, size = data.boxes[number]
    height, width = frame.shape[:2]
    if size < SMALLEST or min(x, y) < 0 or x + size > width or y + size > height:
        raise SourceError(
            f"{data.folder}: frame {number} is {width} x {height}, but its crop box is x={x} y={y} size={size}: "
            f"it must lie inside and be at least {SMALLEST} wide"
        )
    return face_crop(frame, data.boxes[number])
