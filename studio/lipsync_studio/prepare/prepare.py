"""Prepares the training of an avatar from videos of a person who has agreed to it.

    lipsync avatars prepare VIDEO [VIDEO ..] --id anna
    lipsync avatars train work/anna

VIDEO is a video file, a SyncTalk_2D dataset (full_body_img/, landmarks/*.lms, aud.wav), or a packed one
(crop_rects.json or cache/crop_rectangles.json, with frames or a video). The preparation writes avatars/anna, in which
only the networks are missing, and the training folder work/anna with preview.png for a person to look at. The same
command continues an interrupted preparation. All steps from filming to a served avatar: docs/your-avatar.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import yaml
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from lipsync_client.console import notes
from lipsync_mel.timeline import FPS
from lipsync_server.repository.package import check_avatar_id
from lipsync_server.repository.source import Picture, SourceError, read_facts
from lipsync_studio.faces.finder import FaceFinder
from lipsync_studio.prepare.avatar_folder import (
    Attribution,
    refuse_existing,
    write_boxes,
    write_facts,
    write_folder,
    write_footage,
)
from lipsync_studio.prepare.checks import (
    loop_findings,
    offset_findings,
    offset_of,
    picture_findings,
    shapes_of,
    size_findings,
    speech_findings,
    speech_frames,
)
from lipsync_studio.prepare.face_tracking import track_faces
from lipsync_studio.prepare.idle_loop import Loop, choose_loop
from lipsync_studio.prepare.inputs import Input, clip_names, open_input
from lipsync_studio.prepare.preview import preview
from lipsync_studio.prepare.training_folder import Clip, write_sound

TRAINED = ("unet.onnx", "encoder.onnx")


def prepare_avatar(
    paths: Sequence[Path],
    target: Path,
    work: Path,
    *,
    attribution: Attribution | None = None,
    sound_offset: float = 0.0,
    replace: bool = False,
) -> list[str]:
    """Write the source folder `target`, whose name is the avatar's id, and the training folder `work`.

    Args:
        paths: videos or dataset folders of one person.
        sound_offset: seconds by which the sound is later than the lips.
        attribution: what avatar.yaml states about the avatar.
        replace: replace an earlier `target`. Its networks are kept, and so is all that its avatar.yaml states, except
            for what `attribution` states.

    Returns:
        findings: sentences on what is wrong with the footage.

    Raises:
        SourceError: the input cannot be used, or `target` exists and `replace` is false.
    """
    check_avatar_id(target.name)
    refuse_existing(target, replace)
    stated = read_facts(target / "avatar.yaml") if (target / "avatar.yaml").exists() else {}
    stated |= (attribution or Attribution()).stated() | {"id": target.name}
    inputs = [open_input(path) for path in paths]
    names = clip_names(list(paths))
    (work / "prepared.yaml").unlink(missing_ok=True)  # written again when all is done
    clips = _track_all(inputs, names, work)
    for source, clip in zip(inputs, clips, strict=True):
        write_sound(clip.folder, source.sound(len(clip.frames.boxes), sound_offset))
    findings = _findings(inputs, clips, sound_offset)
    if not any(clip.frames.usable.any() for clip in clips):
        raise SourceError("no frame can be used:\n" + "\n".join(findings))
    at, loop = _choose(clips)
    shown = clips[at]
    findings += loop_findings(shown.name, loop, shapes_of(shown.frames.points), speech_frames(shown.sound))
    if not cv2.imwrite(str(work / "preview.png"), preview(inputs, clips, at, loop)):
        raise SourceError(f"{work / 'preview.png'} cannot be written")
    _write_source(target, inputs[at], clips[at], loop, stated, replace)  # last, so that the same command can continue
    facts = {"id": target.name, "clips": names, "findings": findings}
    (work / "prepared.yaml").write_text(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return findings


def _track_all(inputs: Sequence[Input], names: Sequence[str], work: Path) -> list[Clip]:
    """The clips of all inputs, with a progress bar."""
    finder, clips = FaceFinder(), []
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=notes) as bar:
        total = sum(source.count or 0 for source in inputs) * 2  # each is read twice: for the boxes, for the crops
        task = bar.add_task("tracking the face", total=total or None)
        for source, name in zip(inputs, names, strict=True):
            bar.update(task, description=f"tracking the face in {name}")
            clips.append(track_faces(source, work / "clips" / name, finder, lambda: bar.advance(task)))
    return clips


def _findings(inputs: Sequence[Input], clips: Sequence[Clip], sound_offset: float) -> list[str]:
    """The findings of `checks` on all clips."""
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
    """Choose the idle loop, in which nobody speaks and the lips are closed. Returns the clip's number, and the loop."""
    openings = [shapes_of(clip.frames.points).opening for clip in clips]
    known = np.concatenate(openings)
    known = known[np.isfinite(known)]
    low, high = np.percentile(known, (10, 90)) if len(known) else (0.0, 1.0)
    looks, unrest, usable, starts, begin = [], [], [], [], 0
    for clip, opening in zip(clips, openings, strict=True):
        open_ = np.nan_to_num((opening - low) / max(high - low, 1e-6), nan=0.0).clip(0, 1)
        looks += [clip.frames.looks, np.full((1, clip.frames.looks.shape[1]), np.nan, np.float32)]
        unrest += [(open_ + speech_frames(clip.sound)) / 2, np.ones(1)]
        usable += [clip.frames.usable, np.zeros(1, bool)]  # no loop contains the border of two clips
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
            folder / "avatar.yaml", facts, "Written by lipsync avatars prepare; the two networks come from training"
        )

    write_folder(target, fill, replace)
