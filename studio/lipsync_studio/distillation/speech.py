"""The speech that a head is trained on, and what it is measured on."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipsync_server import home
from lipsync_studio.corpus.sentences import sentences
from lipsync_studio.corpus.speech_data import read_wav, speak_with_flite
from lipsync_studio.evaluation.evaluate import silences

TRAINED = 0.75  # of the project's sample; the rest is held out
TEMPI = (1.0, 0.84, 0.92, 1.08, 1.18)
GAINS = (0.4, 1.0, 2.0)
VOICES = ("slt", "rms")  # flite's
SENTENCES = 3  # of each voice
QUIET = 10.0  # seconds of silence, and of low noise: a sixth of all, because a face at rest is seen most
SEED = 2000  # no sentences of a training of the encoder, nor of an evaluation


def training_speeches() -> list[NDArray[np.float32]]:
    """FP32, mono at 16 kHz: the first part of the project's sample at several tempi and gains, silence, and sentences
    of synthetic voices where flite is installed.

    A head sees only what the network has made of the sound, so it needs few voices.
    """
    sample = home.read_sample()
    sample = sample[: int(TRAINED * len(sample))]
    result = []
    for tempo in TEMPI:
        faster = np.interp(np.arange(0, len(sample), tempo), np.arange(len(sample)), sample)
        result += [np.asarray(faster * gain, np.float32) for gain in GAINS]
    if shutil.which("flite"):
        result += [_spoken(voice, text) for voice in VOICES for text in sentences(SENTENCES, seed=SEED)]
    return result + [quiet.audio for quiet in silences(QUIET)]


def first_held_out(frames: int) -> int:
    """The first frame of the sample, which has `frames` frames, that no training frame looks at or beyond."""
    return int(np.ceil(TRAINED * frames))


def _spoken(voice: str, text: str) -> NDArray[np.float32]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech"
        speak_with_flite(voice, text, path)
        return read_wav(path.with_suffix(".wav"))
