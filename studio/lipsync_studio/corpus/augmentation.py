"""Augmentation of speech: pace, pauses, breaths, vocal-tract length, timbre, noise and channel.

Every function returns a new speech or array and leaves its input unchanged. Phoneme times stay exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, iirpeak, lfilter
from scipy.signal.windows import tukey

from lipsync_mel.timeline import SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsync_studio.corpus.speech_data import Speech

Windows = NDArray[np.float32]  # [N,1,80,16], see `speech_data.encoder_rows`
Signal = NDArray[np.float64]  # [n] samples at 16 kHz
UNITS_PER_DB = 0.08  # of the normalised mel spectrogram: 100 dB are 8 units


def change_speed(speech: Speech, factor: float) -> Speech:
    """The speech played `factor` times as fast. Pitch and formants move with it, as with another speaker's size."""
    at = np.arange(0, len(speech.audio) - 1, factor)
    audio = np.interp(at, np.arange(len(speech.audio)), speech.audio).astype(np.float32)
    return Speech(speech.name, audio, tuple((name, end / factor) for name, end in speech.phones))


def add_silence(speech: Speech, before: float, after: float) -> Speech:
    """The speech with silence before and after it, in seconds."""
    audio = np.concatenate(
        [
            np.zeros(int(before * SAMPLE_RATE), np.float32),
            speech.audio,
            np.zeros(int(after * SAMPLE_RATE), np.float32),
        ]
    )
    moved = ((name, end + before) for name, end in speech.phones)
    phones = [("pau", before), *moved, ("pau", len(audio) / SAMPLE_RATE)]
    return Speech(speech.name, audio, tuple(phones))


def perturb_vocal_tract(windows: Windows, *stretches: float) -> Windows:
    """Vocal-tract-length perturbation: mel bands move as with a longer or shorter vocal tract, at the same pace.

    Args:
        windows: FP32 [N,1,80,16].
        stretches: factors for the lowest to the highest bands, interpolated between them. More than one moves the
            formants against each other, as accents do.
    """
    bands = windows.shape[2]
    stretch = np.interp(np.linspace(0, 1, bands), np.linspace(0, 1, len(stretches)), stretches)
    at = np.clip(np.arange(bands) * stretch, 0, bands - 1.001)
    low, part = at.astype(int), (at % 1).astype(np.float32)[:, None]
    return np.asarray(windows[:, :, low] * (1 - part) + windows[:, :, low + 1] * part)


def perturb_timbre(windows: Windows, rng: np.random.Generator, most: float = 6.0) -> Windows:
    """Windows [N,1,80,16] with a smooth random gain over the bands of up to `most` dB, as of another microphone."""
    bands = windows.shape[2]
    gain = np.interp(np.linspace(0, 6, bands), np.arange(7), rng.uniform(-most, most, 7)) * UNITS_PER_DB
    louder = np.clip(windows + gain[:, None], -4, 4).astype(np.float32)
    return np.where(windows > -4, louder, windows)  # -4 is silence and stays silent


def excerpt(speech: Speech, first: int, last: int) -> Speech:
    """The speech from video frame `first` to before `last`, or its end."""
    begin, end = first * SAMPLES_PER_FRAME / SAMPLE_RATE, last * SAMPLES_PER_FRAME / SAMPLE_RATE
    phones = [(name, min(until, end) - begin) for name, until in speech.phones if until > begin]
    inside = [phone for before, phone in zip([0.0, *(e for _, e in phones)], phones, strict=False) if phone[1] > before]
    return Speech(speech.name, speech.audio[first * SAMPLES_PER_FRAME : last * SAMPLES_PER_FRAME], tuple(inside))


def add_breaths(speech: Speech, rng: np.random.Generator) -> Speech:
    """The speech with breaths in about half of its longer pauses: people breathe there, synthetic voices do not."""
    audio = speech.audio.copy()
    loud = float(np.sqrt(np.percentile(np.square(audio), 90)))
    begins = [0.0, *(end for _, end in speech.phones)]
    for begin, (name, end) in zip(begins, speech.phones, strict=False):
        length = rng.uniform(0.12, 0.6)
        if name != "pau" or end - begin < length + 0.08 or rng.random() < 0.5:
            continue
        first, count = int(rng.uniform(begin + 0.04, end - length - 0.04) * SAMPLE_RATE), int(length * SAMPLE_RATE)
        audio[first : first + count] += loud * 10 ** (-rng.uniform(14, 38) / 20) * breath(rng, count)
    return Speech(speech.name, audio, speech.phones)


def breath(rng: np.random.Generator, samples: int) -> Signal:
    """An inhalation of unit power at its loudest: noise that the vocal tract filters like a whispered vowel."""
    air_noise = noise(rng, samples)
    band = [rng.uniform(150, 900), rng.uniform(1800, 6500)]
    air = lfilter(*butter(1, band, "bandpass", fs=SAMPLE_RATE), air_noise)
    for at in rng.uniform([300, 1000, 2500], [900, 2200, 4500])[: rng.integers(4)]:  # resonances
        air += rng.uniform(0.3, 1.5) * lfilter(*iirpeak(at, rng.uniform(2, 9), fs=SAMPLE_RATE), air_noise)
    return np.asarray(air / max(air.std(), 1e-9) * tukey(samples, rng.uniform(0.1, 1)))


def noise(rng: np.random.Generator, samples: int) -> Signal:
    """Noise of unit power with a random spectral tilt."""
    x = lfilter([1], [1, -rng.uniform(0, 0.98)], rng.standard_normal(samples))
    return np.asarray(x / max(x.std(), 1e-9))


def add_noise_and_channel(audio: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise and channel augmentation: reverberation, microphone, telephone band, noise, hum and level. Timing stays."""
    x = audio.astype(np.float64)
    if rng.random() < 0.5:
        x = _reverberated(x, rng)
    if rng.random() < 0.5:  # a microphone: brighter or duller
        low = lfilter(*butter(1, rng.uniform(300, 3000), fs=SAMPLE_RATE), x)
        x = x + rng.uniform(-0.7, 2) * low
    if rng.random() < 0.3:  # a telephone's band
        band = [rng.uniform(60, 300), rng.uniform(3400, 7500)]
        x = lfilter(*butter(2, band, "bandpass", fs=SAMPLE_RATE), x)
    power = np.sqrt(np.square(x).mean()) + 1e-9
    x = x + power * 10 ** (-rng.uniform(8, 55) / 20) * noise(rng, len(x))
    if rng.random() < 0.2:  # mains hum
        level = power * 10 ** (-rng.uniform(10, 40) / 20)
        x = x + level * np.sin(2 * np.pi * rng.choice([50, 60, 100]) * np.arange(len(x)) / SAMPLE_RATE)
    x *= 10 ** (rng.uniform(-32, -1) / 20) / (np.abs(x).max() + 1e-9)
    return np.asarray(x, np.float32)


def _reverberated(x: Signal, rng: np.random.Generator) -> Signal:
    """The speech as in a room: the direct sound and a decaying tail of 0.3 s."""
    count = int(0.3 * SAMPLE_RATE)
    tail = rng.standard_normal(count) * np.exp(-np.arange(count) / (rng.uniform(0.02, 0.1) * SAMPLE_RATE))
    tail *= rng.uniform(0.1, 0.7) / np.sqrt(np.square(tail).sum())
    tail[0] += 1
    return np.asarray(fftconvolve(x, tail)[: len(x)])
