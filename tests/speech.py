"""Speech for tests, and the reference's mel windows of it, by librosa alone."""

from __future__ import annotations

import librosa
import numpy as np
import scipy.signal

from lipsync_server import home


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


real_speech = home.read_sample


def reference_mel(speech: np.ndarray) -> np.ndarray:
    """The reference's mel spectrogram [F, 80], by librosa alone."""
    extended = np.pad(speech, (0, max(0, 5600 - len(speech))))
    emphasised = scipy.signal.lfilter([1, -0.97], [1], extended)
    spectrum = librosa.stft(emphasised, n_fft=800, hop_length=200, win_length=800, center=True, pad_mode="constant")
    basis = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    decibel = 20 * np.log10(np.maximum(1e-5, basis @ np.abs(spectrum))) - 20
    return np.clip(8 * (decibel + 100) / 100 - 4, -4, 4).T


def reference_rows(speech: np.ndarray) -> np.ndarray:
    """The feature list's windows [W+2, 80, 16], by the reference's loop."""
    spectrogram = reference_mel(speech)
    total = len(spectrogram)
    windows = []
    for k in range(int((total - 16) / 80.0 * 25) + 2):
        start = int(80.0 * k / 25)
        windows.append(spectrogram[start : start + 16] if start + 16 <= total else spectrogram[total - 16 :])
    return np.stack([w.T for w in (windows[0], *windows, windows[-1])])
