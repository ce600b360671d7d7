"""Makes the mel filterbank with librosa, when models are built: librosa is too slow to import in a serving stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def make_filterbank(path: Path) -> None:
    """Write librosa's mel filterbank, FP32 [80, 401], to `path` (.npy)."""
    import librosa  # slow to import

    np.save(path, librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600))
