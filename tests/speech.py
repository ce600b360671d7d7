"""Speech-like test sound, made here: no test depends on files that are not the project's."""

from __future__ import annotations

import numpy as np


def babble(samples: int, seed: int = 0) -> np.ndarray:
    """FP32 [samples]: a voiced buzz with moving formants in syllables, breath noise and pauses, about -20 dB."""
    random = np.random.default_rng(seed)
    time = np.arange(samples) / 16_000
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * time + random.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    formant = 700 + 500 * np.sin(2 * np.pi * 2.3 * time + random.uniform(0, 6))
    voice = sum(np.exp(-(((h * pitch - formant) / 300) ** 2)) * np.sin(h * phase) for h in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * 2.1 * time + random.uniform(0, 6)) + 0.4, 0, 1)
    pauses = np.sin(2 * np.pi * 0.31 * time + random.uniform(0, 6)) > -0.7
    return (0.12 * voice * syllables * pauses + 0.003 * random.standard_normal(samples)).astype(np.float32)
