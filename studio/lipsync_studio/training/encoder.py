"""Trains the audio encoder, once for all avatars: an articulation probe must predict mouth curves from its features.

    python -m lipsync_studio.training.encoder CORPUS WORK [--steps 4000] [--hold-out awb] [--test REAL.wav ..]

CORPUS comes from `lipsync_studio.corpus.speech_data`. Run it again to continue from the last checkpoint in WORK. Then
`python -m lipsync_studio.export encoder WORK/encoder.pt OUT.onnx` makes the ONNX model, and
`python -m lipsync_studio.training.shipped_encoder --keep WORK/encoder.pt` stores the probe, which U-Net training needs
(see `articulation_probe.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional

from lipsync_client.console import notes
from lipsync_mel import mel
from lipsync_mel.timeline import ROWS_BEFORE, ROWS_PER_FRAME
from lipsync_studio.corpus import augmentation
from lipsync_studio.corpus.mouth_curves import MOUTH, classes, mouth_curves
from lipsync_studio.corpus.speech_data import Speech, encoder_rows, load_corpus, voices_of
from lipsync_studio.networks import AudioEncoder
from lipsync_studio.training.articulation_probe import STATE_KEY, ArticulationProbe, rows_of_frames
from lipsync_studio.training.encoder_validation import validation_summary
from lipsync_studio.training.runs import (
    Stop,
    learning_rate,
    load_checkpoint,
    optimize,
    save_checkpoint,
    steps_with_progress,
)
from lipsync_studio.training.shipped_encoder import read_encoder, read_probe

SPEECHES, STRETCH = 5, 14  # in a step: so many consecutive frames of a few speeches
STARTS = 0.15  # share of stretches that begin with the speech, with rows before the feature list
LIPS = 0.5  # share of the others that contain a p, b, m, f or v: these are rare, and errors in them are easy to see
PEAK = 2e-3
WARM_UP = 200  # steps: at first the probe's errors say little about the encoder
EVERY = 250  # steps between checkpoints
FINE_TUNING = 0.5  # of the rate, for an encoder that is trained already
AUXILIARY = "auxiliary_head"  # key of the checkpoint
CENTRE = ROWS_BEFORE - 1  # row i + CENTRE has frame i in the middle of its window
CURVE_WEIGHTS = torch.tensor([2.0, 1.0, 1.5, 3.0, 2.5, 0.7, 0.7])  # as in MOUTH; the more visible, the more weight
Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # windows [B,R,1,80,16], inside [B,R,1], curves [B,F,7], classes [B,F]
Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


def example(filterbank: csr_matrix, corpus: Sequence[Speech], rng: np.random.Generator) -> Arrays:
    """`STRETCH` frames of a random, augmented speech: windows, inside, curves and classes as in `Batch`, without B."""
    speech = corpus[rng.integers(len(corpus))]
    speech = augmentation.change_speed(speech, rng.uniform(0.82, 1.22))
    speech = augmentation.add_silence(speech, rng.uniform(0, 0.7), rng.uniform(0.1, 0.7))
    curves, kind = mouth_curves(speech.phones, speech.audio, speech.frames)
    audio = augmentation.add_breaths(speech, rng).audio if rng.random() < 0.6 else speech.audio
    audio = augmentation.add_noise_and_channel(audio, rng) if rng.random() < 0.9 else audio
    windows, inside = encoder_rows(filterbank, audio)
    windows = augmentation.perturb_vocal_tract(windows, *(rng.uniform(0.88, 1.14) * rng.uniform(0.93, 1.07, 4)))
    if rng.random() < 0.7:
        windows = augmentation.perturb_timbre(windows, rng)
    first = 0 if rng.random() < STARTS else int(rng.integers(speech.frames - STRETCH + 1))
    lips = np.flatnonzero(lips_meet(torch.from_numpy(curves)).numpy())
    if first and len(lips) and rng.random() < LIPS:
        first = int(np.clip(rng.choice(lips) - rng.integers(STRETCH), 0, speech.frames - STRETCH))
    rows, frames = slice(first, first + STRETCH + ROWS_PER_FRAME - 1), slice(first, first + STRETCH)
    return windows[rows], inside[rows], curves[frames], kind[frames]


def lips_meet(curves: Tensor) -> Tensor:
    """Where lips are pressed or bitten, BOOL [..], of curves [..,7]."""
    return (curves[..., MOUTH.index("press")] > 0.6) | (curves[..., MOUTH.index("bite")] > 0.6)


def batch_of(filterbank: csr_matrix, corpus: Sequence[Speech], rng: np.random.Generator) -> Batch:
    examples = [example(filterbank, corpus, rng) for _ in range(SPEECHES)]
    windows, inside, curves, kind = (torch.from_numpy(np.stack(part)) for part in zip(*examples, strict=True))
    return windows, inside, curves, kind


class EncoderTraining:
    """The networks and the optimizer of one training.

    The auxiliary head predicts curves and mouth classes from each single row. It guides the encoder at the beginning,
    when the probe has not learned anything yet.

    Args:
        fine_tune: begin with the shipped encoder and probe.
    """

    def __init__(self, fine_tune: bool) -> None:
        self.fine_tune = fine_tune
        self.network = read_encoder() if fine_tune else AudioEncoder()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.probe = read_probe() if fine_tune else ArticulationProbe()
        self.auxiliary_head = nn.Sequential(nn.Dropout(0.1), nn.Linear(512, len(MOUTH) + len(classes())))
        new = [*self.probe.parameters(), *self.auxiliary_head.parameters()]
        self.optimizer = torch.optim.AdamW(
            [{"params": [*self.network.parameters()]}, {"params": new}], weight_decay=0.02
        )

    def load(self, path: Path) -> int:
        """Continue from a checkpoint, if there is one. Returns the number of steps done."""
        state = load_checkpoint(path)
        if not state:
            return 0
        self.network.load_state_dict(state["state_dict"])
        self.probe.load_state_dict(state[STATE_KEY])
        self.auxiliary_head.load_state_dict(state[AUXILIARY])
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def save(self, path: Path, step: int) -> None:
        state = {
            "state_dict": self.network.state_dict(),
            STATE_KEY: self.probe.state_dict(),
            AUXILIARY: self.auxiliary_head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": step,
        }
        save_checkpoint(path, state)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss by name."""
        windows, inside, curves, kind = batch
        with torch.autocast("cpu", torch.bfloat16):  # twice as fast
            features = self.network(windows.flatten(0, 1)).float().unflatten(0, windows.shape[:2]) * inside
        predicted = self.probe(torch.cat([rows_of_frames(rows) for rows in features])).unflatten(0, curves.shape[:2])
        single = self.auxiliary_head(features[:, CENTRE : CENTRE + STRETCH])
        weights = CURVE_WEIGHTS * (1 + 2 * lips_meet(curves)[..., None])
        change = (features[:, 1:] - features[:, :-1]).square().mean() / features.var().clamp_min(1e-6)
        return {
            "curves": ((predicted - curves).square() * weights).mean(),
            "auxiliary": 0.5 * ((single[..., : len(MOUTH)].sigmoid() - curves).square() * weights).mean(),
            "classes": 0.03 * functional.cross_entropy(single[..., len(MOUTH) :].flatten(0, 1), kind.flatten()),
            "scale": 0.01 * (features.square().mean() - 1).square(),  # the U-Net's input stays near unit power
            "smooth": 0.01 * change,
        }

    def train_step(self, batch: Batch, rate: float) -> dict[str, float]:
        """One step; the parts of its loss by name."""
        self.network.train(not self.fine_tune)  # the shipped encoder's batch norm is folded into its convolutions
        self.probe.train()
        parts = self.losses(batch)
        encoder_rate = (FINE_TUNING if self.fine_tune else 1.0) * rate
        optimize(self.optimizer, torch.stack(list(parts.values())).sum(), [encoder_rate, rate])
        return {name: value.item() for name, value in parts.items()}


def train_encoder(
    corpus_folder: Path,
    work: Path,
    *,
    steps: int = 4000,
    hold_out: str = "awb",
    real: Sequence[Path] = (),
    fine_tune: bool = False,
) -> None:
    """Train to WORK/encoder.pt, or continue.

    Args:
        hold_out: a voice of the corpus that is only tested on.
        real: recordings of real speech to test on, 16 kHz mono.
        fine_tune: begin with the shipped encoder; fewer steps are enough then.
    """
    corpus = load_corpus(corpus_folder, voices_of(corpus_folder) - {hold_out})
    held_out = load_corpus(corpus_folder, {hold_out})[:12]
    filterbank = mel.load_filterbank()
    torch.manual_seed(0)
    training, path = EncoderTraining(fine_tune), work / "encoder.pt"
    first = training.load(path)
    shown: dict[str, float] = {}
    stop, step = Stop(), first - 1
    for step in steps_with_progress(first, steps, shown, stop):
        batch = batch_of(filterbank, corpus, np.random.default_rng([7, step]))
        for name, value in training.train_step(batch, learning_rate(step, steps, PEAK, WARM_UP)).items():
            shown[name] = 0.98 * shown.get(name, value) + 0.02 * value
        if step % EVERY == EVERY - 1:
            training.save(path, step + 1)
            validated = validation_summary(training.network, training.probe, filterbank, held_out, real)
            losses = " ".join(f"{name} {value:.4f}" for name, value in shown.items())
            notes.print(f"step {step + 1}: {losses} | {validated}", markup=False)
    training.save(path, step + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--hold-out", default="awb", help="a voice of the corpus to test on")
    parser.add_argument("--test", type=Path, nargs="*", default=[], help="real speech to test on, 16 kHz mono")
    parser.add_argument("--from-shipped", action="store_true", help="begin with the shipped encoder, with fewer steps")
    options = parser.parse_args()
    train_encoder(
        options.corpus,
        options.work,
        steps=options.steps,
        hold_out=options.hold_out,
        real=options.test,
        fine_tune=options.from_shipped,
    )


if __name__ == "__main__":
    main()
