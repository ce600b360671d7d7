"""Lets scripts import the stages' modules, which live in their model folders (one tree to copy to a server)."""

import sys
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ROOT / "model_repository"

for _stage in ("mel_preprocess", "composite"):
    _folder = str(REPOSITORY / _stage / "1")
    if _folder not in sys.path:
        sys.path.append(_folder)


def read_sample() -> NDArray[np.float32]:
    """The project's speech sample, a real person reading: FP32 [113600], mono at 16 kHz."""
    with wave.open(str(ROOT / "samples" / "speech.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
