"""Computes the mel spectrogram: equal to SyncTalk_2D's (librosa) within 1e-4, and bit-equal for every way of slicing.

It is bit-equal because each mel frame is computed from its own 800 samples by operations whose rounding does not depend
on how many frames are computed together: elementwise arithmetic, one FFT per frame, and a sparse filterbank (a BLAS
product may round differently for different sizes).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.fft
import scipy.signal
import scipy.sparse
from numpy.typing import NDArray

from lipsync_mel.timeline import FFT_SIZE, HOP, MELS, MIN_SAMPLES, WINDOW

FILTERBANK = Path(__file__).with_name("filterbank.npy")
PRE_EMPHASIS = 0.97
HANN = scipy.signal.get_window("hann", FFT_SIZE, fftbins=True)  # periodic


def load_filterbank(path: Path = FILTERBANK) -> scipy.sparse.csr_matrix:
    """Load librosa's filterbank [80, 401], stored beside this file, as a sparse matrix: 800 of 32,080 values are not 0.

    Raises:
        ValueError: it has another shape.
    """
    bank = np.load(path)
    if bank.shape != (MELS, FFT_SIZE // 2 + 1):
        raise ValueError(f"{path.name} has shape {bank.shape}, it must be ({MELS}, {FFT_SIZE // 2 + 1})")
    return scipy.sparse.csr_matrix(bank.astype(np.float64))


def mel_frames(
    filterbank: scipy.sparse.csr_matrix,
    audio: NDArray[np.float32],
    audio_start: int,
    samples: int | None,
    first: int,
    stop: int,
) -> NDArray[np.float32]:
    """Mel frames `first` .. `stop`-1 of a speech, from a slice of it.

    Args:
        filterbank: see `load_filterbank`.
        audio: FP32 [n], the slice; it must hold every sample that these frames reach.
        audio_start: position of audio[0] in the speech.
        samples: length of the whole speech, None while unfinished.
        first, stop: absolute mel frame numbers; frame m is centred on sample 200*m.

    Returns:
        FP32 [stop-first, 80], values in [-4, 4].
    """
    low, high = first * HOP - FFT_SIZE // 2, (stop - 1) * HOP + FFT_SIZE // 2
    x = np.zeros(high - low + 1)  # one more in front, for pre-emphasis; zeros where there is no speech
    begin, end = max(audio_start, low - 1), min(audio_start + len(audio), high)
    x[begin - (low - 1) : end - (low - 1)] = audio[begin - audio_start : end - audio_start]
    y = x[1:] - PRE_EMPHASIS * x[:-1]
    if samples is not None:  # the STFT pads the pre-emphasised signal, so there are zeros after the last sample
        y[max(0, max(samples, MIN_SAMPLES) - low) :] = 0.0
    windows = np.lib.stride_tricks.sliding_window_view(y, FFT_SIZE)[::HOP]
    spectrum = scipy.fft.rfft(windows * HANN, axis=-1)
    magnitude = np.sqrt(spectrum.real**2 + spectrum.imag**2)
    mel = (filterbank @ np.ascontiguousarray(magnitude.T)).T
    decibel = 20.0 * np.log10(np.maximum(1e-5, mel)) - 20.0
    levels: NDArray[np.float32] = np.clip(8.0 * ((decibel + 100.0) / 100.0) - 4.0, -4.0, 4.0).astype(np.float32)
    return levels


def encoder_windows(
    filterbank: scipy.sparse.csr_matrix,
    audio: NDArray[np.float32],
    audio_start: int,
    samples: int | None,
    starts: NDArray[np.int64],
    inside: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """The mel windows of some feature rows (`timeline.row_windows`): FP32 [rows, 1, 80, 16], zeros outside the list."""
    result = np.zeros((len(starts), 1, MELS, WINDOW), np.float32)
    if not inside.any():
        return result
    first = int(starts[inside].min())
    mel = mel_frames(filterbank, audio, audio_start, samples, first, int(starts[inside].max()) + WINDOW)
    for row in np.flatnonzero(inside):
        offset = int(starts[row]) - first
        result[row, 0] = mel[offset : offset + WINDOW].T
    return result
