"""Trains the shipped audio encoder on, for the networks that already listen to it: no U-Net has to be trained again.

    python -m lipsync_studio.training.encoder_refinement WORK --synthetic CORPUS --real CORPUS [--steps 3000]

The corpora come from `lipsync_studio.corpus.speech_data` and `lipsync_studio.corpus.recordings`. The articulation probe
and the demo's U-Net stay as they are, and the encoder learns features that tell both the right mouth (see
`frozen_listeners.py`). Music, noise and breath must give the features of silence. Run it again to continue from
WORK/refined.pt. The readers of `recordings.held_out` and the voice `awb` are not trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lipsync_client.console import notes
from lipsync_mel import mel
from lipsync_server import home
from lipsync_studio.corpus.augmentation import excerpt
from lipsync_studio.corpus.features import spoken_frames
from lipsync_studio.corpus.recordings import collection_of, held_out, trained_voices
from lipsync_studio.corpus.speech_data import Speech, load_corpus, voices_of
from lipsync_studio.networks import AudioEncoder
from lipsync_studio.training.articulation_probe import STATE_KEY, rows_of_frames
from lipsync_studio.training.encoder_examples import CURVE_WEIGHTS, Batch, SpeechSampler, batch_of, lips_meet
from lipsync_studio.training.encoder_validation import refinement_summary
from lipsync_studio.training.frozen_listeners import FrozenListeners
from lipsync_studio.training.runs import (
    Stop,
    learning_rate,
    load_checkpoint,
    optimize,
    save_checkpoint,
    steps_with_progress,
)
from lipsync_studio.training.shipped_encoder import read_encoder, read_probe
from lipsync_studio.training.shipped_unet import drop_batch_norms, read_unet

TEST_VOICE = "awb"
SPEECHES, RESTING, STRETCH = 6, 1, 20  # in a step: stretches with and without speech, frames of each
REAL = 0.6  # share of real people
PEAK = 5e-4
EVERY_FRAME = 3  # the U-Net's branch costs as much as the encoder: it hears only so many
KEPT = 3  # of the encoder's 13 blocks: the first, which find edges, are as they were; half of a step's time
WARM_UP = 100  # steps
EVERY, VALIDATE = 100, 500  # steps between checkpoints, and between validations
TESTS, TEST_FRAMES = 6, 150  # speeches of each group that validate, frames of each
HEAD_SPEECHES, HEAD_STEPS = 150, 400
# Weights of staying near the shipped features, relative to their variance: most where these are right already.
ANCHOR_REAL, ANCHOR_SYNTHETIC, ANCHOR_REST = 0.03, 0.1, 0.5


class EncoderRefinement:
    """The encoder, what listens to it, and the optimizer."""

    def __init__(self, listeners: FrozenListeners) -> None:
        self.network, self.shipped, self.listeners = read_encoder(), read_encoder(), listeners
        self._whole = self.network.state_dict()  # with batch norms that do nothing
        for network in (self.network, self.shipped):
            drop_batch_norms(network)
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.shipped.requires_grad_(False)
        self.network.audio_encoder[:KEPT].requires_grad_(False)
        self.optimizer = torch.optim.AdamW([*self.network.parameters()], weight_decay=0.01)

    def load(self, path: Path) -> int | None:
        """Continue from a checkpoint. Returns the number of steps done, None if there is no checkpoint."""
        state = load_checkpoint(path)
        if not state:
            return None
        own = self.network.state_dict()
        self.network.load_state_dict({name: state["state_dict"][name] for name in own})
        self.listeners.head.load_state_dict(state["head"])
        self.listeners.requires_grad_(False)
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def save(self, path: Path, step: int) -> None:
        """Write a checkpoint, which is also one for `lipsync_studio.export` and U-Net training."""
        state = {
            "state_dict": self._whole | self.network.state_dict(),
            STATE_KEY: self.listeners.probe.state_dict(),
            "head": self.listeners.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": step,
        }
        save_checkpoint(path, state)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss by name."""
        shape = batch.windows.shape[:2]
        near = slice(SPEECHES // 2, None)  # stretches that are compared with the shipped features: half is enough
        with torch.autocast("cpu", torch.bfloat16):  # twice as fast
            features = self.network(batch.windows.flatten(0, 1)).float().unflatten(0, shape) * batch.inside
            with torch.no_grad():
                clean = batch.clean[near]
                known = self.shipped(clean.flatten(0, 1)).float().unflatten(0, clean.shape[:2]) * batch.inside[near]
        rows, curves = torch.cat([rows_of_frames(rows) for rows in features]), batch.curves.flatten(0, 1)
        weights = CURVE_WEIGHTS * (1 + 2 * lips_meet(curves)[..., None])
        predicted, understood = self.listeners.predicted(rows), self.listeners.understood(rows[::EVERY_FRAME])
        away = (features[near] - known).square().mean((1, 2)) / known.var().clamp_min(1e-3)
        spoken = torch.where(batch.real[near], ANCHOR_REAL, ANCHOR_SYNTHETIC)
        anchor = torch.where(batch.speech[near], spoken, ANCHOR_REST)
        return {
            "probe": ((predicted - curves).square() * weights).mean(),
            "branch": ((understood - curves[::EVERY_FRAME]).square() * weights[::EVERY_FRAME]).mean(),
            "anchor": (away * anchor).mean(),
            "smooth": 0.01 * (features[:, 1:] - features[:, :-1]).square().mean() / features.var().clamp_min(1e-6),
        }

    def train_step(self, batch: Batch, rate: float) -> dict[str, float]:
        """One step; the parts of its loss by name."""
        self.network.eval()  # the shipped encoder's batch norm is folded into its convolutions
        parts = self.losses(batch)
        optimize(self.optimizer, torch.stack(list(parts.values())).sum(), [rate])
        return {name: value.item() for name, value in parts.items()}


def listeners_of(encoder: AudioEncoder, synthetic: list[Speech], learn: bool) -> FrozenListeners:
    """The shipped probe and the demo's audio branch, with a head that understands it.

    Args:
        encoder: the shipped one.
        learn: train the head now; false if a checkpoint has it.
    """
    listeners = FrozenListeners(read_probe(), read_unet(home.AVATARS / "demo" / "unet.onnx").audio_model)
    if learn:
        frames = spoken_frames(synthetic, encoder, mel.load_filterbank(), HEAD_SPEECHES, seed=1)
        listeners.learn_head(frames, HEAD_STEPS)
    return listeners


def refine(synthetic_folder: Path, real_folder: Path, work: Path, *, steps: int) -> None:
    """Train to WORK/refined.pt, or continue."""
    torch.manual_seed(0)
    _, choosing = held_out(voices_of(real_folder))
    synthetic = load_corpus(synthetic_folder, voices_of(synthetic_folder) - {TEST_VOICE})
    real = load_corpus(real_folder, trained_voices(real_folder))
    tests = {TEST_VOICE: load_corpus(synthetic_folder, {TEST_VOICE})[:TESTS]}
    for speech in load_corpus(real_folder, choosing):
        tests.setdefault(collection_of(speech.name.split("_")[0]), []).append(excerpt(speech, 0, TEST_FRAMES))
    tests = {name: speeches[:: max(1, len(speeches) // TESTS)] for name, speeches in tests.items()}
    filterbank, path = mel.load_filterbank(), work / "refined.pt"
    training = EncoderRefinement(listeners_of(read_encoder(), synthetic, learn=not path.exists()))
    first = training.load(path)
    if first is None:
        first = 0
        training.save(path, 0)
    sampler, shown = SpeechSampler(synthetic, real, REAL), dict[str, float]()
    notes.print(f"{len(synthetic)} synthetic and {len(real)} real speeches", markup=False)
    stop, step = Stop(), first - 1
    for step in steps_with_progress(first, steps, shown, stop):
        rng = np.random.default_rng([17, step])
        batch = batch_of(filterbank, sampler, rng, speeches=SPEECHES, resting=RESTING, count=STRETCH)
        for name, value in training.train_step(batch, learning_rate(step, steps, PEAK, WARM_UP)).items():
            shown[name] = 0.98 * shown.get(name, value) + 0.02 * value
        if step % EVERY == EVERY - 1:
            training.save(path, step + 1)
            notes.print(f"step {step + 1}: " + " ".join(f"{name} {value:.4f}" for name, value in shown.items()))
        if step % VALIDATE == VALIDATE - 1:
            notes.print(refinement_summary(training.network, training.listeners, filterbank, tests))
    training.save(path, step + 1)
    if step >= first:
        notes.print(refinement_summary(training.network, training.listeners, filterbank, tests))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--synthetic", type=Path, required=True)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    options = parser.parse_args()
    refine(options.synthetic, options.real, options.work, steps=options.steps)


if __name__ == "__main__":
    main()
