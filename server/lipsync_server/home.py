"""Where the product's own files are: in a checkout the checkout's, else what the wheel carries and the user's home."""

from __future__ import annotations

import wave
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHIPPED = Path(str(files("lipsync_server"))) / "shipped"  # in a checkout: links to the checkout's own folders
REPOSITORY = (SHIPPED / "model_repository").resolve()
AVATARS = (SHIPPED / "avatars").resolve()
BACKENDS = (SHIPPED / "backends").resolve()
SAMPLE = (SHIPPED / "samples" / "speech.wav").resolve()
SETTINGS = (SHIPPED / "server.yaml").resolve()


def read_sample() -> NDArray[np.float32]:
    """The project's speech sample, a real person reading: FP32 [113600], mono at 16 kHz."""
    with wave.open(str(SAMPLE)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
