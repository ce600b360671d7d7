"""Speech with known mouth curves -> what a U-Net is trained on: a frame's 16 rows of audio features, and its curves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from lipsync_mel.timeline import ROWS_PER_FRAME
from lipsync_studio.corpus import speech_data
from lipsync_studio.corpus.mouth_curves import classes, mouth_curves
from lipsync_studio.networks import AudioEncoder


@dataclass(frozen=True)
class SpokenFrames:
    """Frames of many speeches. `rows` FP16 [R,512] holds all speeches' feature rows, one speech after the other."""

    rows: np.ndarray
    first_row: np.ndarray  # INT64 [N]: frame n reads rows first_row[n] .. first_row[n]+15
    curves: np.ndarray  # FP32 [N,7], see mouth_curves.MOUTH
    silent: np.ndarray  # BOOL [N]

    def audio(self, frame: int) -> np.ndarray:
        """FP32 [32,16,16], the U-Net's audio input."""
        first = self.first_row[frame]
        return self.rows[first : first + ROWS_PER_FRAME].astype(np.float32).reshape(32, 16, 16)

    @cached_property
    def _kinds(self) -> tuple[np.ndarray, ...]:
        """Numbers of frames: at an end of a speech, where rows of zeros stand for what is not there; silent; others."""
        edge = ~(self.rows[self.first_row].any(1) & self.rows[self.first_row + ROWS_PER_FRAME - 1].any(1))
        return tuple(map(np.flatnonzero, (edge, self.silent & ~edge, ~self.silent & ~edge)))

    def pick(self, rng: np.random.Generator, edge: float = 0.2, silence: float = 0.2) -> int:
        """A random frame; often one of silence, because a mouth that moves in pauses is noticed at once."""
        which = int(np.searchsorted([edge, edge + silence], rng.random(), side="right"))
        return int(rng.choice(self._kinds[which]))


@torch.no_grad()
def encode(encoder: AudioEncoder, filterbank, audio: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Feature rows of a speech, FP32 [frames+15, 512], zeros outside the list; with `rng`, of somebody else's voice."""
    windows, inside = speech_data.encoder_rows(filterbank, audio)
    if rng:
        windows = speech_data.other_timbre(speech_data.other_throat(windows, *rng.uniform(0.9, 1.12, 3)), rng)
    with torch.autocast("cpu", torch.bfloat16):  # twice as fast, features off by less than 1 %
        features = encoder(torch.from_numpy(windows)).float()
    return (features * torch.from_numpy(inside)).numpy()


def spoken_frames(
    corpus: list[speech_data.Speech], encoder: AudioEncoder, filterbank, count: int, seed: int, rough: float = 0.7
) -> SpokenFrames:
    """`count` speeches of the corpus with pauses around them, most of them breathing, in rooms, in other voices."""
    rng = np.random.default_rng(seed)
    encoder.eval()
    rows, first, curves, silent, begin = [], [], [], [], 0
    order = [corpus[i % len(corpus)] for i in rng.permutation(max(count, len(corpus)))[:count]]
    for speech in track(order, description="encoding speech"):
        speech = speech_data.change_speed(speech, rng.uniform(0.88, 1.15))
        speech = speech_data.add_silence(speech, rng.uniform(0, 0.8), rng.uniform(0.1, 0.8))
        shapes, kind = mouth_curves(speech.phones, speech.audio, speech.frames)
        audio = speech_data.add_breaths(speech, rng).audio if rng.random() < rough else speech.audio
        audio = speech_data.roughen(audio, rng) if rng.random() < rough else audio
        features = encode(encoder, filterbank, audio, rng if rng.random() < rough else None)
        rows.append(features.astype(np.float16))
        first.append(begin + np.arange(speech.frames))
        curves.append(shapes)
        silent.append((kind == classes().index("pau")) & (shapes[:, 0] < 0.05))
        begin += len(features)
    return SpokenFrames(*(np.concatenate(parts) for parts in (rows, first, curves, silent)))


def load_or_make(path: Path, make) -> SpokenFrames:
    """The frames stored at `path` (.npz), or what `make()` gives, stored there."""
    if not path.exists():
        frames = make()
        np.savez(path, rows=frames.rows, first_row=frames.first_row, curves=frames.curves, silent=frames.silent)
    with np.load(path) as stored:
        return SpokenFrames(**{name: stored[name] for name in ("rows", "first_row", "curves", "silent")})
