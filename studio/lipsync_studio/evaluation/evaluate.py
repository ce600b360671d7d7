"""Measures an avatar: lets it speak, looks at the frames that are sent, writes a table and contact sheets.

    python scripts/evaluate_avatar.py demo --out OUT
    python scripts/evaluate_avatar.py demo --speech a.wav --speech b.wav

needs the extra `evaluate`; `flite` for a voice with known phonemes. What is measured, and how: docs/evaluation.md.
"""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from lipsync_client.media.audio import read_audio
from lipsync_composite.assets import key_name
from lipsync_server import home
from lipsync_server.pipeline import LocalPipeline
from lipsync_studio.corpus.mouth_curves import phones_from_ipa
from lipsync_studio.corpus.sentences import sentences
from lipsync_studio.corpus.speech_data import read_wav, speak_with_flite
from lipsync_studio.evaluation.mouth import MouthMeter
from lipsync_studio.evaluation.patch import Footage
from lipsync_studio.evaluation.recording import Recording, Studio, Talk, Truth, joined
from lipsync_studio.evaluation.report import picture_lines, speech_lines, write_sheets, write_tables
from lipsync_studio.faces.landmarks import FaceMesh

SAMPLE_RATE = 16_000
NEW_SENTENCES = 1000  # seed: none of the training's
NOISE = 1e-3  # RMS of the low noise, -60 dB of full scale
LEARNED = 36  # footage frames that show the mouth at rest

console = Console()


def silences(seconds: float = 10.0) -> list[Talk]:
    """Digital silence, and noise as quiet as that of a quiet room's microphone."""
    count = round(seconds * SAMPLE_RATE)
    noise = NOISE * np.random.default_rng(0).standard_normal(count)
    return [Talk("silence", np.zeros(count, np.float32)), Talk("noise-60dB", noise.astype(np.float32))]


def read_talk(path: Path, seconds: float) -> Talk:
    """The first seconds of a speech; phonemes from the .json beside it, if there is one (see speech_data.py)."""
    audio = read_audio(path)[: round(seconds * SAMPLE_RATE)]
    notes_path = path.with_suffix(".json")
    if not notes_path.exists():
        return Talk(path.stem, audio)
    notes = json.loads(notes_path.read_text())
    phones = phones_from_ipa(notes["ipa"]) if "ipa" in notes else [(name, end) for name, end in notes["phones"]]
    return Talk(path.stem, audio, tuple(phones))


def flite_talk(voice: str, count: int) -> Talk:
    """New sentences spoken by one of flite's voices."""
    talks = []
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(sentences(count, seed=NEW_SENTENCES)):
            path = Path(folder) / f"{number}.wav"
            speak_with_flite(voice, text, path)
            phones = json.loads(path.with_suffix(".json").read_text())["phones"]
            talks.append(Talk(path.stem, read_wav(path), tuple((name, end) for name, end in phones)))
    return joined(f"flite-{voice}", talks)


def open_studio(pipeline: LocalPipeline, truth: Truth | None) -> tuple[Studio, list[str]]:
    """The studio, and what it learned of the avatar."""
    footage = Footage(pipeline.folder, pipeline.avatar)
    facts = footage.facts
    chosen = np.unique(np.linspace(0, facts.frames - 1, LEARNED).astype(int)).tolist()
    frames, boxes = [footage.frame(i) for i in chosen], [footage.box(i) for i in chosen]
    meter = MouthMeter(FaceMesh(), frames, boxes)
    still = [meter.measure(frame, box) for frame, box in zip(frames, boxes, strict=True)]
    notes = [
        f"Avatar {facts.id}, {facts.width}x{facts.height}, {facts.frames} frames, key {key_name(pipeline.key)}.",
        f"Eyes {meter.eyes:.0f} px apart. At rest the landmarks' inner lips are {meter.rest:.2f} % of it apart; in the "
        f"plain footage the opening beyond that is {min(s.opening for s in still):.2f} to "
        f"{max(s.opening for s in still):.2f} %, the gap at most {max(s.gap for s in still):.2f} %.",
    ]
    return Studio(pipeline, footage, meter, truth), notes


def evaluate(
    avatar: str = "demo",
    repository: Path | None = None,
    speech: Sequence[Path] = (),
    out: Path = Path("evaluation"),
    *,
    voice: str = "awb",
    count: int = 8,
    seconds: float = 30.0,
    truth: str = "",
    avatars: Path = Path("avatars"),
) -> None:
    """Measure an avatar: a table on the screen and in OUT/table.md, contact sheets beside it.

    Args:
        avatar: its id.
        repository: a built one; the default repository if absent.
        speech: files; phonemes in a .json beside one are used. The project's sample if there is none.
        out: folder for the table and the pictures.
        voice: flite voice with known phonemes; "" for none.
        count: sentences of that voice.
        seconds: of each speech file.
        truth: MODULE:FUNCTION, called with the source folder: true pictures.
        avatars: sources of avatars, for `truth`.
    """
    talks = [read_talk(path, seconds) for path in speech or [home.SAMPLE]]
    if voice and shutil.which("flite"):
        talks.append(flite_talk(voice, count))
    pipeline = LocalPipeline(repository, avatar)
    studio, notes = open_studio(pipeline, _open_truth(truth, avatars / avatar))
    if voice and not shutil.which("flite"):
        console.print("no flite here: nothing is measured against known phonemes")
    out.mkdir(parents=True, exist_ok=True)
    spoken = [_record(studio, talk, out) for talk in talks]
    quiet = [_record(studio, talk, out) for talk in silences()]
    parts = [
        ("Speech", spoken, speech_lines(spoken)),
        ("Pictures", [*quiet, *spoken], picture_lines([*quiet, *spoken])),
    ]
    write_tables(parts, notes, out / "table.md", console)
    console.print(*notes, f"written: {out}/table.md and its pictures", sep="\n")


def _record(studio: Studio, talk: Talk, out: Path) -> Recording:
    recording = studio.record(talk)
    write_sheets(recording, out)
    return recording


def _open_truth(named: str, source: Path) -> Truth | None:
    if not named:
        return None
    module, _, function = named.partition(":")
    return getattr(importlib.import_module(module), function)(source)
