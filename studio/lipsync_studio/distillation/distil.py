"""Distils the last stage of an avatar's U-Net into a small head, measures it, and packs the avatar with it.

    lipsync avatars distil anna

The avatar's own network teaches the head: its INT8 form gives what the head is given, its FP32 form what the head must
draw. So no video and no new speech is needed. The same command continues after Ctrl-C.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from lipsync_client.avatar_file.install import draft_in, installed
from lipsync_client.console import notes
from lipsync_client.media.audio import read_audio
from lipsync_server import home
from lipsync_server.networks.quantize import speech_features
from lipsync_server.pipeline import LocalPipeline
from lipsync_server.repository.avatar_int8 import quantised
from lipsync_server.repository.build import build
from lipsync_server.repository.model_folders import INT8_ENCODER, place_shipped
from lipsync_server.repository.package import Plan, plan, write_packed
from lipsync_server.repository.source import AvatarSource, face_crop
from lipsync_studio.distillation.comparison import Comparer, Comparison, comparison_table
from lipsync_studio.distillation.examples import EXAMPLES, Examples
from lipsync_studio.distillation.head import Head, export_head
from lipsync_studio.distillation.sheet import write_sheet
from lipsync_studio.distillation.speech import first_held_out, training_speeches
from lipsync_studio.distillation.teacher import Shown, Teacher, shown
from lipsync_studio.distillation.training import train_head
from lipsync_studio.evaluation.evaluate import rest_frames, silences
from lipsync_studio.evaluation.metric_tables import MetricTable, as_markdown
from lipsync_studio.evaluation.mouth_meter import MouthMeter
from lipsync_studio.evaluation.patch_metrics import Footage
from lipsync_studio.evaluation.recording import RenderedSpeech
from lipsync_studio.faces.landmarks import FaceMesh
from lipsync_studio.training.runs import Stop

STEPS = 3000
HEAD = "head.onnx"
SHIPPED = "demo"


class Trained(NamedTuple):
    """A trained head, and what it learned from."""

    head: Head
    teacher: Teacher
    crops: NDArray[np.uint8]  # [n,320,320,3], the footage's face crops, BGR
    examples: Examples


class Distilled(NamedTuple):
    """What came of it.

    Attributes:
        table: the figures.
        failures: a sentence for each bound that is not kept.
        packed: whether the avatar was packed with the head.
        work: the folder with the sheet, the table and the head.
    """

    table: MetricTable
    failures: list[str]
    packed: bool
    work: str


def distil(
    folder: Path,
    work: Path,
    *,
    steps: int = STEPS,
    speech: Sequence[Path] = (),
    anyway: bool = False,
) -> Distilled | None:
    """Give an avatar a head, or continue; then pack it into the default repository with the preset turbo.

    Args:
        folder: the avatar's source folder. head.onnx is written there, and avatar.yaml names it.
        work: the folder for the examples, the checkpoint, the sheet and the table.
        steps: training steps in all.
        speech: files to measure the head on, besides the held-out part of the project's sample.
        anyway: pack it also if it does not keep the bounds.

    Returns:
        None if it was stopped before its end.

    Raises:
        SourceError, ValueError: the avatar's source is broken, or its network is not one that a head fits.
        AudioError: a speech file cannot be read.
        DownloadError: the landmark network could not be downloaded.
    """
    source, repository = AvatarSource.read(folder), home.repository()
    speeches = [RenderedSpeech(path.stem, read_audio(path)) for path in speech]
    work = _work_folder(source, work)
    build(repository)
    trained = _train(source, repository, work, steps)
    if trained is None:
        notes.print(f"Saved in {work}. The same command continues.")
        return None
    onnx.save(export_head(trained.head), work / HEAD)
    turbo = replace(source, head=str((work / HEAD).absolute()), preset="turbo")
    shipped = source.id == SHIPPED
    with draft_in(repository) as draft:
        write_packed(plan(turbo, repository, shipped=shipped), draft)
        compared = _compare(LocalPipeline(repository, source.id, packed=draft), trained, shown(source), speeches)
        table = comparison_table(compared)
        (work / "table.md").write_text(as_markdown([table], []), encoding="utf-8")
        write_sheet(work / "sheet.png", compared[0], compared[1])
        failures = [sentence for one in compared for sentence in one.failures()]
        packed = anyway or not failures
        if packed and shipped:
            place_shipped(draft, repository)
            _state_head(folder, work / HEAD)
        elif packed:
            with installed(draft, source.id, repository):  # whoever serves it loads it
                _state_head(folder, work / HEAD)
    if packed:
        trained.examples.remove()
    return Distilled(table, failures, packed, str(work))


def _train(source: AvatarSource, repository: Path, work: Path, steps: int) -> Trained | None:
    """Make the examples and train; both continue from WORK. Returns None if that was stopped before its end."""
    exact = replace(source, preset="exact")  # the preset of any width
    planned = plan(exact, repository, shipped=source.id == SHIPPED)
    crops = np.stack([face_crop(*pair) for pair in zip(source.frames(), source.read_boxes(), strict=True)])
    teacher = Teacher(planned.network, _in_int8(planned, crops, work), source.mask)
    encoder = planned.encoder or INT8_ENCODER
    with notes.status("encoding speech"):
        audio = np.concatenate([speech_features(repository, speech, encoder) for speech in training_speeches()])
    torch.manual_seed(0)
    head = Head(teacher.channels)
    examples = Examples(work, teacher, crops, audio, shown(source), EXAMPLES)
    with Stop() as stop:  # packing and measuring after it, Ctrl-C ends the command at once
        done = examples.make(stop) and train_head(head, examples, steps, work / "head.pt", stop)
    return Trained(head.eval(), teacher, crops, examples) if done else None


def _compare(
    pipeline: LocalPipeline, trained: Trained, region: Shown, speeches: Sequence[RenderedSpeech]
) -> list[Comparison]:
    """The held-out part of the sample, silence, noise, and the speeches."""
    footage = Footage(pipeline.folder, pipeline.avatar)
    comparer = Comparer(
        pipeline, trained.teacher, trained.crops, region, footage, MouthMeter(FaceMesh(), *rest_frames(footage))
    )
    sample = RenderedSpeech("held-out", home.read_sample())
    quiet, noise = silences()
    return [
        comparer.compare(sample, True, first=first_held_out(sample.frames), keep=True),
        comparer.compare(quiet, False, keep=True),
        comparer.compare(noise, False),
        *(comparer.compare(speech, True) for speech in speeches),
    ]


def _in_int8(planned: Plan, crops: NDArray[np.uint8], work: Path) -> onnx.ModelProto:
    """The network as it will be packed. It is kept: calibration takes a minute."""
    path = work / "int8.onnx"
    if not path.exists():
        small = quantised(planned.network, crops, planned.source, planned.repository, planned.encoder)
        work.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".partial")
        onnx.save(small, draft)
        draft.replace(path)
    return onnx.load(path)


def _work_folder(source: AvatarSource, work: Path) -> Path:
    """The folder in WORK for this avatar as it is: another network or footage has another."""
    digest = sha256(f"{source.mask} {source.blend}".encode())
    for name in (source.unet, source.footage, source.boxes, source.encoder):
        if name:
            digest.update((source.folder / name).read_bytes())
    return work / f"head-{digest.hexdigest()[:12]}"


def _state_head(folder: Path, head: Path) -> None:
    """Copy the head into the avatar's source folder and name it in avatar.yaml, whose comments stay."""
    shutil.copyfile(head, folder / HEAD)
    path = folder / "avatar.yaml"
    text = path.read_text(encoding="utf-8")
    for line in (f"head: {HEAD}", "preset: turbo"):
        key = line.partition(":")[0]
        text, found = re.subn(rf"^{key}:.*$", line, text, flags=re.MULTILINE)
        if not found:
            text = f"{text.rstrip()}\n{line}\n"
    draft = path.with_suffix(".partial")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
