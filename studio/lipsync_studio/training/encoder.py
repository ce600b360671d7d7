"""Trains the audio encoder, once for all avatars: an articulation probe must predict mouth curves from its features.

    python -m lipsync_studio.training.encoder CORPUS WORK [--real CORPUS] [--steps 4000] [--test REAL.wav ..]

The corpora come from `lipsync_studio.corpus.speech_data` and, of real people, `lipsync_studio.corpus.recordings`; the
readers of `recordings.held_out` are left out. To train the shipped encoder on, for the avatars that there are, see
`encoder_refinement.py`. Run it again to continue from the last checkpoint in WORK. Then
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
from torch import Tensor, nn
from torch.nn import functional

from lipsync_client.console import notes
from lipsync_mel import mel
from lipsync_mel.timeline import ROWS_BEFORE
from lipsync_studio.corpus.mouth_curves import MOUTH, classes
from lipsync_studio.corpus.recordings import trained_voices
from lipsync_studio.corpus.speech_data import load_corpus, voices_of
from lipsync_studio.networks import AudioEncoder
from lipsync_studio.training.articulation_probe import STATE_KEY, ArticulationProbe, rows_of_frames
from lipsync_studio.training.encoder_examples import CURVE_WEIGHTS, Batch, SpeechSampler, batch_of, lips_meet
from lipsync_studio.training.encoder_validation import validation_summary
from lipsync_studio.training.runs import (
    Stop,
    learning_rate,
    load_checkpoint,
    optimize,
    save_checkpoint,
    steps_with_progress,
)

SPEECHES, RESTING, STRETCH = 5, 1, 14  # in a step: stretches with and without speech, frames of each
REAL = 0.6  # share of real people, if there are any
PEAK = 2e-3
WARM_UP = 200  # steps: at first the probe's errors say little about the encoder
EVERY = 250  # steps between checkpoints
AUXILIARY = "auxiliary_head"  # key of the checkpoint
CENTRE = ROWS_BEFORE - 1  # row i + CENTRE has frame i in the middle of its window


class EncoderTraining:
    """The networks and the optimizer of one training.

    The auxiliary head predicts curves and mouth classes from each single row. It guides the encoder at the beginning,
    when the probe has not learned anything yet.
    """

    def __init__(self) -> None:
        self.network = AudioEncoder()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.probe = ArticulationProbe()
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
        windows, inside, curves, kind = batch.windows, batch.inside, batch.curves, batch.kinds
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
        self.network.train()
        self.probe.train()
        parts = self.losses(batch)
        optimize(self.optimizer, torch.stack(list(parts.values())).sum(), [rate, rate])
        return {name: value.item() for name, value in parts.items()}


def train_encoder(
    corpus_folder: Path,
    work: Path,
    *,
    real_folder: Path | None = None,
    steps: int = 4000,
    hold_out: str = "awb",
    test: Sequence[Path] = (),
) -> None:
    """Train to WORK/encoder.pt, or continue.

    Args:
        real_folder: a corpus of real people.
        hold_out: a voice of the synthetic corpus that is only tested on.
        test: recordings of real speech to test on, 16 kHz mono.
    """
    corpus = load_corpus(corpus_folder, voices_of(corpus_folder) - {hold_out})
    tested = load_corpus(corpus_folder, {hold_out})[:12]
    real = load_corpus(real_folder, trained_voices(real_folder)) if real_folder else []
    sampler, filterbank = SpeechSampler(corpus, real, REAL), mel.load_filterbank()
    torch.manual_seed(0)
    training, path = EncoderTraining(), work / "encoder.pt"
    first = training.load(path)
    shown: dict[str, float] = {}
    stop, step = Stop(), first - 1
    for step in steps_with_progress(first, steps, shown, stop):
        rng = np.random.default_rng([7, step])
        batch = batch_of(filterbank, sampler, rng, speeches=SPEECHES, resting=RESTING, count=STRETCH)
        for name, value in training.train_step(batch, learning_rate(step, steps, PEAK, WARM_UP)).items():
            shown[name] = 0.98 * shown.get(name, value) + 0.02 * value
        if step % EVERY == EVERY - 1:
            training.save(path, step + 1)
            validated = validation_summary(training.network, training.probe, filterbank, tested, test)
            losses = " ".join(f"{name} {value:.4f}" for name, value in shown.items())
            notes.print(f"step {step + 1}: {losses} | {validated}", markup=False)
    training.save(path, step + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--real", type=Path, help="a corpus of real people")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--hold-out", default="awb", help="a voice of the corpus to test on")
    parser.add_argument("--test", type=Path, nargs="*", default=[], help="real speech to test on, 16 kHz mono")
    options = parser.parse_args()
    train_encoder(
        options.corpus,
        options.work,
        real_folder=options.real,
        steps=options.steps,
        hold_out=options.hold_out,
        test=options.test,
    )


if __name__ == "__main__":
    main()
