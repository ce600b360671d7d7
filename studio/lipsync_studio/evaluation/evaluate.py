"""Evaluates an avatar: renders speech in one process, measures every frame, writes a table and contact sheets.

    lipsync avatars evaluate demo --out OUT
    lipsync avatars evaluate demo --speech a.wav --speech b.wav

It uses `flite`, if it is installed, for a voice with known phonemes. The metrics: docs/evaluation.md.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lipsync_client.console import note
from lipsync_client.media.audio import read_audio
from lipsync_composite.assets import key_name
from lipsync_mel.timeline import SAMPLE_RATE
from lipsync_server import home
from lipsync_server.pipeline import LocalPipeline
from lipsync_studio.corpus.sentences import sentences
from lipsync_studio.corpus.speech_data import read_phones, read_wav, speak_with_flite
from lipsync_studio.evaluation.contact_sheets import write_sheets
from lipsync_studio.evaluation.metric_tables import (
    MetricTable,
    as_markdown,
    phoneme_rows,
    picture_rows,
    published_rows,
    speech_rows,
)
from lipsync_studio.evaluation.mouth_meter import Box, MouthMeter
from lipsync_studio.evaluation.patch_metrics import Footage, Picture
from lipsync_studio.evaluation.recording import Recording, RenderedSpeech, Truth, joined
from lipsync_studio.evaluation.session import EvaluationSession
from lipsync_studio.faces.landmarks import FaceMesh

NEW_SENTENCES = 1000  # seed: no sentences of the training
NOISE = 1e-3  # RMS of the low noise, -60 dB of full scale
REST_FRAMES = 36  # footage frames from which the mouth at rest is learned


class Evaluation(NamedTuple):
    """What was found of an avatar: sentences about it, and tables of metrics."""

    avatar: list[str]
    tables: list[MetricTable]


def silences(seconds: float = 10.0) -> list[RenderedSpeech]:
    """Digital silence, and noise as of a microphone in a quiet room."""
    count = round(seconds * SAMPLE_RATE)
    noise = NOISE * np.random.default_rng(0).standard_normal(count)
    return [
        RenderedSpeech("silence", np.zeros(count, np.float32)),
        RenderedSpeech("noise-60dB", noise.astype(np.float32)),
    ]


def read_speech(path: Path, seconds: float) -> RenderedSpeech:
    """The first seconds of a speech. Phonemes come from the .json beside it, if there is one, see `speech_data`."""
    audio = read_audio(path)[: round(seconds * SAMPLE_RATE)]
    phones = path.with_suffix(".json")
    return RenderedSpeech(path.stem, audio, read_phones(phones) if phones.exists() else ())


def flite_speech(voice: str, count: int) -> RenderedSpeech:
    """New sentences, spoken by one of flite's voices."""
    speeches = []
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(sentences(count, seed=NEW_SENTENCES)):
            path = Path(folder) / f"{number}.wav"
            speak_with_flite(voice, text, path)
            speeches.append(RenderedSpeech(path.stem, read_wav(path), read_phones(path.with_suffix(".json"))))
    return joined(f"flite-{voice}", speeches)


def rest_frames(footage: Footage) -> tuple[list[Picture], list[Box]]:
    """The plain frames, and their crop boxes, from which a `MouthMeter` learns the mouth at rest."""
    chosen = np.unique(np.linspace(0, footage.facts.frames - 1, REST_FRAMES).astype(int)).tolist()
    return [footage.frame(i) for i in chosen], [footage.box(i) for i in chosen]


def open_session(pipeline: LocalPipeline, truth: Truth | None) -> tuple[EvaluationSession, list[str]]:
    """A session, and sentences about the avatar."""
    footage = Footage(pipeline.folder, pipeline.avatar)
    facts = footage.facts
    frames, boxes = rest_frames(footage)
    meter = MouthMeter(FaceMesh(), frames, boxes)
    still = [meter.measure(frame, box) for frame, box in zip(frames, boxes, strict=True)]
    notes = [
        f"Avatar {facts.id}, {facts.width}x{facts.height}, {facts.frames} frames, key {key_name(pipeline.key)}.",
        f"Eyes {meter.eyes:.0f} px apart. At rest the landmarks' inner lips are {meter.rest:.2f} % of it apart; in the "
        f"plain footage the opening beyond that is {min(s.opening for s in still):.2f} to "
        f"{max(s.opening for s in still):.2f} %, the gap at most {max(s.gap for s in still):.2f} %.",
    ]
    return EvaluationSession(pipeline, footage, meter, truth), notes


def speeches_of(
    speech: Sequence[Path], films: Sequence[RenderedSpeech] = (), *, voice: str, count: int, seconds: float
) -> list[RenderedSpeech]:
    """What is spoken.

    Args:
        speech: files; phonemes in a .json beside one are used. The project's sample if there is no file and no film.
        films: of people who speak, see `prepare.film`; their sound is spoken, and the mouth compared with theirs.
        voice: flite voice with known phonemes, of which new sentences are spoken; "" for none.
        count: sentences of that voice.
        seconds: of each file.

    Raises:
        AudioError: a file cannot be read.
    """
    speeches = [*films, *(read_speech(path, seconds) for path in speech or ([] if films else [home.SAMPLE]))]
    if voice and shutil.which("flite"):
        speeches.append(flite_speech(voice, count))
    elif voice:
        note("flite is not installed, so no speech has known phonemes.")
    return speeches


def evaluate(
    pipeline: LocalPipeline,
    speech: Sequence[Path] = (),
    out: Path = Path("evaluation"),
    *,
    films: Sequence[RenderedSpeech] = (),
    voice: str = "awb",
    count: int = 8,
    seconds: float = 30.0,
    truth: Truth | None = None,
) -> Evaluation:
    """Evaluate an avatar. Writes the tables into OUT/table.md, and contact sheets beside it.

    Args:
        pipeline: the avatar's.
        speech, films, voice, count, seconds: see `speeches_of`.
        out: folder for the table and the pictures.
        truth: gives the picture that should have come out for a footage frame and mouth curves.

    Raises:
        ValueError: no face is found in the avatar's footage.
        AudioError: a speech file cannot be read.
        DownloadError: the landmark network could not be downloaded.
    """
    speeches = speeches_of(speech, films, voice=voice, count=count, seconds=seconds)
    session, facts = open_session(pipeline, truth)
    out.mkdir(parents=True, exist_ok=True)
    spoken = [_record(session, one, out) for one in speeches]
    quiet = [_record(session, one, out) for one in silences()]
    everything = [*quiet, *spoken]
    tables = [
        MetricTable("Speech", [one.speech.name for one in spoken], speech_rows(spoken)),
        MetricTable("Round and wide sounds", [one.speech.name for one in spoken], phoneme_rows(spoken)),
        MetricTable("Measures that other systems publish", [one.speech.name for one in spoken], published_rows(spoken)),
        MetricTable("Pictures", [one.speech.name for one in everything], picture_rows(everything)),
    ]
    (out / "table.md").write_text(as_markdown(tables, facts), encoding="utf-8")
    note(f"written: {out / 'table.md'} and its pictures")
    return Evaluation(facts, tables)


def _record(session: EvaluationSession, speech: RenderedSpeech, out: Path) -> Recording:
    recording = session.record(speech)
    write_sheets(recording, out)
    return recording
