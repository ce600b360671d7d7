"""Lets scripts import the stages' and the backend's modules, which live where the server wants them."""

import sys
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ROOT / "model_repository"
SAMPLE = ROOT / "samples" / "speech.wav"

for _folder in (REPOSITORY / "mel_preprocess" / "1", REPOSITORY / "composite" / "1", ROOT / "backends" / "onnxruntime"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))


def read_sample() -> NDArray[np.float32]:
    """The project's speech sample, a real person reading: FP32 [113600], mono at 16 kHz."""
    with wave.open(str(SAMPLE)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
