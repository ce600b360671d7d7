"""Random music, noise and breath, synthesized: sounds at which a mouth must stay closed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, lfilter

from lipsync_mel.timeline import SAMPLE_RATE
from lipsync_studio.corpus.augmentation import Signal, breath, noise

LOWEST, HIGHEST = 40, 88  # notes, as MIDI counts them
SCALE = (0, 2, 3, 5, 7, 8, 10)  # semitones


def music(rng: np.random.Generator, samples: int) -> Signal:
    """Music of unit power: one to four voices of one random instrument each, and drums in about half of it."""
    beat = rng.uniform(0.15, 0.7)  # s
    key = int(rng.integers(LOWEST, LOWEST + 12))
    parts = [_melody(rng, samples, beat, key) for _ in range(int(rng.integers(1, 5)))]
    if rng.random() < 0.5:
        parts.append(rng.uniform(0.3, 1.5) * _drums(rng, samples, beat))
    return _unit(np.sum(parts, axis=0))


def _melody(rng: np.random.Generator, samples: int, beat: float, key: int) -> Signal:
    """Notes of one instrument: fixed overtones, attack and decay."""
    count = int(rng.integers(1, 24))
    tilt, odd = rng.uniform(0.4, 2.0), rng.random() < 0.2
    overtones = np.arange(1, count + 1) ** -tilt * rng.uniform(0.2, 1, count)
    overtones[1::2] *= 0.1 if odd else 1
    attack, decay = rng.uniform(0.003, 0.2), rng.choice([0.1, 0.3, 1.0, 5.0])
    vibrato, rate = rng.choice([0, 0, 0.003, 0.01]), rng.uniform(4, 7)
    out, at = np.zeros(samples), int(rng.uniform(0, beat) * SAMPLE_RATE)
    while at < samples:
        length = beat * rng.choice([0.5, 1, 1, 2, 4])
        if rng.random() < 0.85:
            note = key + 12 * int(rng.integers(0, 4)) + int(rng.choice(SCALE))
            for step in (0, 4, 7) if rng.random() < 0.2 else (0,):
                tone = _tone(min(note + step, HIGHEST), length, overtones, vibrato, rate)
                time = np.arange(len(tone)) / SAMPLE_RATE
                shape = np.minimum(1, time / attack) * np.exp(-time / decay) * np.minimum(1, (length - time) / 0.03)
                piece = (tone * shape * rng.uniform(0.5, 1))[: samples - at]
                out[at : at + len(piece)] += piece
        at += int(length * SAMPLE_RATE)
    return _unit(out)


def _tone(note: int, seconds: float, overtones: Signal, vibrato: float, rate: float) -> Signal:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 440 * 2 ** ((note - 69) / 12)
    numbers = np.arange(1, len(overtones) + 1)
    heard = numbers * pitch < 0.45 * SAMPLE_RATE
    phase = 2 * np.pi * pitch * (time + vibrato / rate * np.sin(2 * np.pi * rate * time))
    return np.asarray(overtones[heard] @ np.sin(numbers[heard, None] * phase))


def _drums(rng: np.random.Generator, samples: int, beat: float) -> Signal:
    """A repeated pattern of two to four kinds of strokes."""
    out = np.zeros(samples)
    for _ in range(int(rng.integers(2, 5))):
        count = int(rng.uniform(0.03, 0.3) * SAMPLE_RATE)
        time = np.arange(count) / SAMPLE_RATE
        low = butter(1, rng.uniform(60, 7000), rng.choice(["lowpass", "highpass"]), fs=SAMPLE_RATE)
        hit = lfilter(*low, rng.standard_normal(count))
        if rng.random() < 0.4:  # a drum with a pitch that falls
            hit = np.sin(2 * np.pi * rng.uniform(50, 200) * time * (1 + 0.5 * np.exp(-time / 0.02)))
        hit = _unit(hit * np.exp(-time / rng.uniform(0.01, 0.1)))
        pattern = rng.random(8) < 0.4
        for turn in range(int(samples / SAMPLE_RATE / beat * 2) + 1):
            at = int(turn * beat / 2 * SAMPLE_RATE)
            if pattern[turn % 8] and at < samples:
                out[at : at + count] += hit[: samples - at]
    return _unit(out)


def noises(rng: np.random.Generator, samples: int) -> Signal:
    """Noise of unit power: steady, swelling, or of single events such as knocks, keys and drops; hum in some."""
    kind = rng.choice(["steady", "swelling", "events", "hum"])
    x = noise(rng, samples)
    if rng.random() < 0.5:
        low, high = np.sort(rng.uniform(40, 7600, 2))
        x = _unit(lfilter(*butter(1, [low, high + 100], "bandpass", fs=SAMPLE_RATE), x))
    if kind == "swelling":
        every = int(rng.uniform(0.05, 1.5) * SAMPLE_RATE)
        knots = rng.uniform(0, 1, samples // every + 2) ** rng.uniform(1, 4)
        x = x * np.interp(np.arange(samples), np.arange(len(knots)) * every, knots)
    if kind == "events":
        gains = np.zeros(samples)
        gains[rng.integers(0, samples, max(1, int(rng.uniform(1, 30) * samples / SAMPLE_RATE)))] = 1
        gains *= rng.uniform(0.1, 1, samples)
        length = int(rng.uniform(0.004, 0.25) * SAMPLE_RATE)
        x = x * fftconvolve(gains, np.exp(-np.linspace(0, 6, length)))[:samples]
    if kind == "hum":
        pitch, numbers = rng.choice([50, 60, rng.uniform(40, 400)]), np.arange(1, 20)
        waves = np.sin(2 * np.pi * pitch * numbers[:, None] * np.arange(samples) / SAMPLE_RATE)
        x = 10 ** (-rng.uniform(0, 30) / 20) * x + (rng.random(19) * numbers**-1.0) @ waves
    return _unit(x)


def breaths(rng: np.random.Generator, samples: int) -> Signal:
    """Breaths of unit power, with silence between them."""
    out, at = np.zeros(samples), int(rng.uniform(0, 0.5) * SAMPLE_RATE)
    while at < samples:
        piece = breath(rng, int(rng.uniform(0.15, 0.9) * SAMPLE_RATE))[: samples - at]
        out[at : at + len(piece)] = piece
        at += len(piece) + int(rng.uniform(0.2, 1.5) * SAMPLE_RATE)
    return _unit(out)


def sound_without_speech(rng: np.random.Generator, samples: int) -> NDArray[np.float32]:
    """Music, noise, breath or digital silence at a random level, FP32 [samples] in [-1, 1]."""
    kind = rng.choice(["music", "noise", "breath", "silence"], p=[0.45, 0.35, 0.12, 0.08])
    if kind == "silence":
        return np.zeros(samples, np.float32)
    x = {"music": music, "noise": noises, "breath": breaths}[kind](rng, samples)
    return np.asarray(x * 10 ** (rng.uniform(-50, -1) / 20) / (np.abs(x).max() + 1e-9), np.float32)


def _unit(x: Signal) -> Signal:
    return np.asarray(x / max(float(np.sqrt(np.square(x).mean())), 1e-9))
