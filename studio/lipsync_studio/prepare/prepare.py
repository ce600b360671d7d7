"""Makes everything that training an avatar needs out of videos of a person who agreed to it.

    python scripts/prepare_avatar.py VIDEO [VIDEO ..] --id anna
    python scripts/train_avatar.py work/anna

VIDEO: any video file, or a folder with SyncTalk_2D's dataset (full_body_img/, landmarks/*.lms, aud.wav) or a packed one
(crop_rects.json or cache/crop_rectangles.json, with frames or a video). Leaves avatars/anna, in which only the network
is missing, and the training folder work/anna with preview.png: look at it. Run again after an interruption, it goes on.
How to film, and the whole way to a served avatar: docs/your-avatar.md. Needs the extras `server` and `evaluate`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import yaml
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lipsync_mel.timeline import FPS
from lipsync_server.repository.package import check_avatar_id
from lipsync_server.repository.source import Picture, SourceError, read_facts
from lipsync_studio.faces.finder import FaceFinder
from lipsync_studio.prepare.checks import (
    offset_findings,
    offset_of,
    picture_findings,
    shapes_of,
    size_findings,
    speech_findings,
    speech_frames,
)
from lipsync_studio.prepare.inputs import Input, clip_names, open_input
from lipsync_studio.prepare.loop import Loop, choose_loop
from lipsync_studio.prepare.preview import preview
from lipsync_studio.prepare.source_folder import write_boxes, write_facts, write_folder, write_footage
from lipsync_studio.prepare.training_folder import Clip, write_sound
from lipsync_studio.prepare.watch import watch

TRAINED = ("unet.onnx", "encoder.onnx")


class Said(NamedTuple):
    """What is written in avatar.yaml because somebody said so."""

    name: str = ""
    licence: str = ""
    provenance: str = ""


def prepare_avatar(
    paths: Sequence[Path],
    target: Path,
    work: Path,
    *,
    said: Said | None = None,
    sound_offset: float = 0.0,
    replace: bool = False,
) -> list[str]:
    """Write the source folder `target`, whose name is the avatar's id, and the training folder `work`.

    Args:
        paths: videos or dataset folders of one person.
        sound_offset: seconds by which the sound is later than the lips.
        replace: over an earlier `target`; its network is kept, and what its avatar.yaml states where `said` is silent.

    Returns:
        what is wrong with the footage, in sentences; none if all is well.

    Raises:
        SourceError: nothing can be made of it.
    """
    check_avatar_id(target.name)
    if target.exists() and not replace:
        raise SourceError(f"{target} is there already: choose another id, or say --replace")
    stated = read_facts(target / "avatar.yaml") if (target / "avatar.yaml").exists() else {}
    stated |= {key: text for key, text in (said or Said())._asdict().items() if text} | {"id": target.name}
    inputs = [open_input(path) for path in paths]
    names = clip_names(list(paths))
    (work / "prepared.yaml").unlink(missing_ok=True)  # only once all is done it is there again
    clips = _watch_all(inputs, names, work)
    for source, clip in zip(inputs, clips, strict=True):
        write_sound(clip.folder, source.sound(len(clip.frames.boxes), sound_offset))
    findings = _findings(inputs, clips, sound_offset)
    if not any(clip.frames.usable.any() for clip in clips):
        raise SourceError("no frame can be used:\n" + "\n".join(findings))
    at, loop = _choose(clips)
    if not cv2.imwrite(str(work / "preview.png"), preview(inputs, clips, at, loop)):
        raise SourceError(f"{work / 'preview.png'} cannot be written")
    _write_source(target, inputs[at], clips[at], loop, stated, replace)  # until then the same command goes on
    facts = {"id": target.name, "clips": names, "findings": findings}
    (work / "prepared.yaml").write_text(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return findings


def _watch_all(inputs: Sequence[Input], names: Sequence[str], work: Path) -> list[Clip]:
    finder, clips = FaceFinder(), []
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        total = sum(source.count or 0 for source in inputs) * 2  # each is seen twice: for the boxes, for the crops
        task = bar.add_task("looking for the face", total=total or None)
        for source, name in zip(inputs, names, strict=True):
            bar.update(task, description=f"looking at {name}")
            clips.append(watch(source, work / "clips" / name, finder, lambda: bar.advance(task)))
    return clips


def _findings(inputs: Sequence[Input], clips: Sequence[Clip], sound_offset: float) -> list[str]:
    result = []
    for source, clip in zip(inputs, clips, strict=True):
        result += [*source.findings(), *picture_findings(clip.name, clip.frames, source.boxes is not None)]
    held = [clip.frames.boxes[np.isfinite(clip.frames.points).all((1, 2))] for clip in clips]
    result += size_findings(np.concatenate(held)[:, 2])
    spoken = [speech_frames(clip.sound) for clip in clips]
    in_all = sum(float(one.sum()) for one in spoken) / FPS
    seen = sum(float((one & clip.frames.usable).sum()) for one, clip in zip(spoken, clips, strict=True)) / FPS
    result += speech_findings(in_all, seen)
    openings = [shapes_of(clip.frames.points).opening for clip in clips]
    return result + offset_findings(offset_of(openings, [clip.sound for clip in clips]), sound_offset)


def _choose(clips: Sequence[Clip]) -> tuple[int, Loop]:
    """The stretch of one clip to idle with: nobody speaks, the lips are closed and the end meets the beginning."""
    openings = [shapes_of(clip.frames.points).opening for clip in clips]
    known = np.concatenate(openings)
    known = known[np.isfinite(known)]
    low, high = np.percentile(known, (10, 90)) if len(known) else (0.0, 1.0)
    looks, unrest, usable, starts, begin = [], [], [], [], 0
    for clip, opening in zip(clips, openings, strict=True):
        open_ = np.nan_to_num((opening - low) / max(high - low, 1e-6), nan=0.0).clip(0, 1)
        looks += [clip.frames.looks, np.full((1, clip.frames.looks.shape[1]), np.nan, np.float32)]
        unrest += [(open_ + speech_frames(clip.sound)) / 2, np.ones(1)]
        usable += [clip.frames.usable, np.zeros(1, bool)]  # no loop goes across the border of two clips
        starts.append(begin)
        begin += len(opening) + 1
    loop = choose_loop(np.concatenate(looks), np.concatenate(unrest), np.concatenate(usable))
    at = int(np.searchsorted(starts, loop.first, side="right")) - 1
    return at, loop._replace(first=loop.first - starts[at])


def _write_source(
    target: Path, source: Input, clip: Clip, loop: Loop, stated: dict[str, object], replace: bool
) -> None:
    def part() -> Iterator[Picture]:
        return islice(source.frames(), loop.first, loop.first + loop.frames)

    def fill(folder: Path) -> None:
        write_footage(folder / "footage.mp4", part(), exact=False)
        write_boxes(folder / "boxes.csv", clip.frames.boxes[loop.first : loop.first + loop.frames].tolist())
        for trained in TRAINED:
            if (target / trained).exists():
                shutil.copyfile(target / trained, folder / trained)
        facts: dict[str, object] = {
            "id": target.name,
            "name": target.name,
            "licence": "not stated: ask the person in the video",
            "provenance": "not stated: who was filmed, when, and what they agreed to",
            **stated,
            "footage": "footage.mp4",
            "boxes": "boxes.csv",
            "unet": "unet.onnx",
            "encoder": "encoder.onnx",
            "loop": loop.kind,
        }
        write_facts(
            folder / "avatar.yaml", facts, "Written by scripts/prepare_avatar.py; the two networks come from training"
        )

    write_folder(target, fill, replace)
