"""Training examples of the audio encoder: augmented stretches of speech, and sounds at which the mouth rests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from lipsync_mel.timeline import FPS, ROWS_PER_FRAME, SAMPLE_RATE
from lipsync_studio.corpus import augmentation, non_speech
from lipsync_studio.corpus.mouth_curves import MOUTH, mouth_curves
from lipsync_studio.corpus.recordings import collection_of
from lipsync_studio.corpus.speech_data import Speech, encoder_rows

STARTS = 0.15  # share of stretches that begin with the speech, with rows before the feature list
LIPS = 0.5  # share of the others that contain a p, b, m, f or v: these are rare, and errors in them are easy to see
MUSIC = 0.2  # share of stretches with music behind the speech
CONTEXT = 20  # frames of sound around a stretch that are augmented with it: its rows reach 10 and 12 frames further
CURVE_WEIGHTS = torch.tensor([2.0, 1.0, 1.5, 3.0, 2.5, 0.7, 0.7])  # as in MOUTH; the more visible, the more weight
GRID = 5  # frames: encoder windows repeat their position relative to the frames so often


@dataclass(frozen=True)
class Batch:
    """B stretches of F consecutive frames, with R = F + 15 feature rows."""

    windows: Tensor  # FP32 [B,R,1,80,16]
    clean: Tensor  # the same without noise, room and microphone
    inside: Tensor  # FP32 [B,R,1], 0 for rows outside the feature list
    curves: Tensor  # FP32 [B,F,7], see `mouth_curves.MOUTH`
    kinds: Tensor  # INT64 [B,F], mouth classes
    speech: Tensor  # BOOL [B], false for music, noise and breath
    real: Tensor  # BOOL [B], speech of real people


class SpeechSampler:
    """Picks speeches of synthetic voices and of real people.

    Every collection of real people gets a share by the square root of its seconds, and within it every voice by the
    square root of its number of speeches. So neither a large collection nor a talkative reader dominates.

    Args:
        synthetic: speeches of synthetic voices, all equally probable.
        real: speeches of real people.
        share: of real people.
    """

    def __init__(self, synthetic: Sequence[Speech], real: Sequence[Speech], share: float) -> None:
        self._speeches, self._synthetic = [*synthetic, *real], len(synthetic)
        voices = [speech.name.split("_")[0] for speech in real]
        size, seconds, weight = Counter(voices), Counter[str](), Counter[str]()
        for voice, speech in zip(voices, real, strict=True):
            seconds[collection_of(voice)] += len(speech.audio)
            weight[collection_of(voice)] += size[voice] ** -0.5
        total = sum(np.sqrt(list(seconds.values())))
        each = [
            share * np.sqrt(seconds[collection_of(v)]) / total * size[v] ** -0.5 / weight[collection_of(v)]
            for v in voices
        ]
        others = (1 - share if real else 1.0) / max(1, len(synthetic))
        self._until = np.cumsum([others] * len(synthetic) + each)

    def pick(self, rng: np.random.Generator) -> tuple[Speech, bool]:
        """A random speech, and whether a real person speaks."""
        number = int(np.searchsorted(self._until, rng.random() * self._until[-1], side="right"))
        return self._speeches[number], number >= self._synthetic


def lips_meet(curves: Tensor) -> Tensor:
    """Where lips are pressed or bitten, BOOL [..], of curves [..,7]."""
    return (curves[..., MOUTH.index("press")] > 0.6) | (curves[..., MOUTH.index("bite")] > 0.6)


def _first_frame(curves: NDArray[np.float32], count: int, rng: np.random.Generator) -> int:
    """Where a stretch of `count` frames begins: at the beginning of the speech, near a closure, or anywhere."""
    last = len(curves) - count
    if rng.random() < STARTS:
        return 0
    lips = np.flatnonzero(lips_meet(torch.from_numpy(curves)).numpy())
    if len(lips) and rng.random() < LIPS:
        return int(np.clip(rng.choice(lips) - rng.integers(count), 0, last))
    return int(rng.integers(last + 1))


def speech_example(
    filterbank: csr_matrix, original: Speech, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.generic], ...]:
    """`count` frames of an augmented speech: windows, clean, inside, curves and kinds as in `Batch`, without B."""
    speech = augmentation.change_speed(original, rng.uniform(0.82, 1.22))
    missing = max(0.0, count / FPS - len(speech.audio) / SAMPLE_RATE)
    speech = augmentation.add_silence(speech, rng.uniform(0, 0.7), rng.uniform(0.1, 0.7) + missing)
    curves, kinds = mouth_curves(speech.phones, speech.audio, speech.frames)
    first = _first_frame(curves, count, rng)
    begin = max(0, first - CONTEXT) // GRID * GRID
    part = augmentation.excerpt(speech, begin, first + count + CONTEXT)
    stretch = [*rng.uniform(0.88, 1.14) * rng.uniform(0.93, 1.07, 4)]
    rows = slice(first - begin, first - begin + count + ROWS_PER_FRAME - 1)

    def windows_of(audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        windows, inside = encoder_rows(filterbank, audio)
        return augmentation.perturb_vocal_tract(windows[rows], *stretch), inside[rows]

    clean, _ = windows_of(part.audio)
    audio = augmentation.add_breaths(part, rng).audio if rng.random() < 0.6 else part.audio
    if rng.random() < MUSIC:
        power = np.sqrt(np.square(audio).mean()) * 10 ** (-rng.uniform(6, 30) / 20)
        audio = audio + (power * non_speech.music(rng, len(audio))).astype(np.float32)
    audio = augmentation.add_noise_and_channel(audio, rng) if rng.random() < 0.9 else audio
    windows, inside = windows_of(audio)
    if rng.random() < 0.7:
        windows = augmentation.perturb_timbre(windows, rng)
    frames = slice(first, first + count)
    return windows, clean, inside, curves[frames], kinds[frames]


def resting_example(filterbank: csr_matrix, count: int, rng: np.random.Generator) -> tuple[NDArray[np.generic], ...]:
    """`count` frames of music, noise, breath or silence, as `speech_example`; its clean sound is silence."""
    first = 0 if rng.random() < STARTS else 3 * GRID
    seconds = (first + count + CONTEXT) / FPS
    audio = non_speech.sound_without_speech(rng, round(seconds * SAMPLE_RATE))
    curves, kinds = mouth_curves([("pau", seconds)], audio * 0, first + count)
    rows = slice(first, first + count + ROWS_PER_FRAME - 1)
    windows, inside = encoder_rows(filterbank, audio)
    clean, _ = encoder_rows(filterbank, audio * 0)
    return windows[rows], clean[rows], inside[rows], curves[first:], kinds[first:]


def batch_of(
    filterbank: csr_matrix, sampler: SpeechSampler, rng: np.random.Generator, *, speeches: int, resting: int, count: int
) -> Batch:
    """A random batch: so many stretches of speech, then so many without it, of `count` frames each."""
    picked = [sampler.pick(rng) for _ in range(speeches)]
    examples = [speech_example(filterbank, speech, count, rng) for speech, _ in picked]
    examples += [resting_example(filterbank, count, rng) for _ in range(resting)]
    windows, clean, inside, curves, kinds = (torch.from_numpy(np.stack(part)) for part in zip(*examples, strict=True))
    real = torch.tensor([real for _, real in picked] + [False] * resting)
    return Batch(windows, clean, inside, curves, kinds, torch.arange(speeches + resting) < speeches, real)
