"""Trains an avatar's U-Net: (face crop, the same with its mouth masked, 16 rows of audio features) -> speaking face.

Examples come from a `unet_examples.Source`, for instance `scripts/rendered/train.py` or `video_source.py`. ENCODER.pt
is the shipped encoder, from `python -m lipsync_studio.training.shipped_encoder`, or a new one from
`python -m lipsync_studio.training.encoder`. A training continues from WORK/unet.pt. WORK/sheet_*.png shows its
progress: target pictures above, the network's pictures below.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipsync_client.console import notes
from lipsync_mel import mel
from lipsync_studio.corpus.features import SpokenFrames, load_or_make, spoken_frames
from lipsync_studio.corpus.speech_data import load_corpus, voices_of
from lipsync_studio.networks import UNet, load_encoder_checkpoint
from lipsync_studio.training.articulation_probe import load_probe, quantile_matched_targets
from lipsync_studio.training.audio_branch_pretraining import pretrain_audio_branch
from lipsync_studio.training.low_resolution_pretraining import pretrain_low_resolution
from lipsync_studio.training.runs import (
    Stop,
    device_of,
    learning_rate,
    load_checkpoint,
    mixed_precision,
    optimize,
    save_checkpoint,
    steps_with_progress,
)
from lipsync_studio.training.stages import EVERY_S, LAST_STAGE, stages_of
from lipsync_studio.training.unet_examples import (
    WHOLE,
    Example,
    FaceRegions,
    Source,
    Window,
    batch_of,
    picture_loss,
)

FACES = 2
PEAK = 1.5e-3
AUDIO_PRETRAINING = 600  # steps
LOW_RESOLUTION_PRETRAINING = 300  # steps
EVERY = 100  # steps between contact sheets
REFINING = 0.75  # the last part of the run, see `freeze_face`
FINE_TUNING = 0.5  # of the rate, for a network that knows the face already


class Peaks(NamedTuple):
    """Of the learning rate: of the audio branch, and of all else."""

    sound: float
    pictures: float


NEW = Peaks(PEAK, PEAK)
ANOTHER_FACE = Peaks(1.4e-4, 7e-4)  # for a network that knows another face: how sound moves a mouth changes little


def _enlarge(x: Tensor, parts: Window, window: Window) -> Tensor:
    """A window of `network.up5.up` (160 -> 320, bilinear, corners aligned), from a part of its input."""
    with torch.autocast(x.device.type, enabled=False):
        ways = []
        for part, wanted in zip(parts, window, strict=True):
            at = torch.arange(wanted.start, wanted.stop, device=x.device)[:, None] * (159 / 319)
            ways.append((1 - (at - torch.arange(part.start, part.stop, device=x.device)).abs()).clamp_min(0))
        return ways[0] @ x.float() @ ways[1].T


def forward_window(network: UNet, pictures: Tensor, audio: Tensor, window: Window) -> Tensor:
    """`UNet.forward` for several frames of speech for each face, with its last stages computed only in a window.

    The last two stages take most of the time.

    Args:
        pictures: [N,6,320,320].
        audio: [N*K,32,16,16].
        window: rows and columns of the output. Its outermost 2 pixels are not exact, unless they are the crop's edge.

    Returns:
        [N*K,3,rows,columns] in 0..1.
    """
    skips = [network.inc(pictures)]
    for down in (network.down1, network.down2, network.down3, network.down4, network.down5):
        skips.append(down(skips[-1]))
    skips = [skip.repeat_interleave(len(audio) // len(pictures), 0) for skip in skips]
    x = network.fuse_conv(torch.cat([skips.pop(), network.audio_model(audio)], dim=1))
    for up in (network.up1, network.up2, network.up3):
        x = up(x, skips.pop())
    rows, columns = (slice(max(0, side.start // 2 - 4), min(160, side.stop // 2 + 4)) for side in window)
    x = network.up4.conv(torch.cat([network.up4.up(x), skips.pop()], dim=1)[:, :, rows, columns])
    near = skips.pop()[:, :, window[0], window[1]]
    enlarged = _enlarge(x, (rows, columns), window).to(near)
    return torch.sigmoid(network.outc(network.up5.conv(torch.cat([enlarged, near], dim=1))))


def freeze_face(network: UNet) -> None:
    """Freeze the face for the last part of a training: batch norm as in inference, no gradients for the face stages.

    These stages are trained by then, and only speech is refined. It also halves the time of a step.
    """
    network.eval()
    for part in (network.inc, network.down1, network.down2, network.down3, network.down4, network.down5):
        part.requires_grad_(False)


@torch.no_grad()
def contact_sheet(network: UNet, examples: Sequence[Example], regions: FaceRegions, path: Path) -> float:
    """Write targets above outputs, as uint8.

    Returns:
        PSNR of the mouth region, dB.
    """
    network.eval()
    picture, audio, _ = batch_of(examples, regions.mask, device_of(network))
    output = (forward_window(network, picture, audio, WHOLE) * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    network.train()
    targets = np.concatenate([e.targets for e in examples])
    part = (slice(None), *regions.mouth)
    cv2.imwrite(str(path), np.vstack([np.hstack(list(targets[part])), np.hstack(list(output[part]))]))
    return psnr(output[part], targets[part])


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of uint8 pictures, dB."""
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


class UNetTraining:
    """A network with its optimizer and its checkpoint WORK/unet.pt.

    Args:
        trained: the network knows the face from an earlier training, so only speech is refined.
        peaks: of the learning rate.
    """

    def __init__(self, network: UNet, work: Path, trained: bool, peaks: Peaks = NEW) -> None:
        self.network, self.trained, self.step = network, trained, 0
        self._peaks = (peaks.pictures,) if peaks.sound == peaks.pictures else (peaks.pictures, peaks.sound)
        self.device = device_of(network)
        self._path, self._saved = work / "unet.pt", time.monotonic()
        sound = [*network.audio_model.parameters()] if len(self._peaks) > 1 else []
        known = {id(parameter) for parameter in sound}
        groups = [{"params": [one for one in network.parameters() if id(one) not in known]}, {"params": sound}]
        self._optimizer = torch.optim.AdamW(groups[: len(self._peaks)], lr=PEAK, weight_decay=0.01)
        if state := load_checkpoint(self._path):
            network.load_state_dict(state["state_dict"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["step"])

    def save(self) -> None:
        state = {"state_dict": self.network.state_dict(), "optimizer": self._optimizer.state_dict(), "step": self.step}
        save_checkpoint(self._path, state)
        self._saved = time.monotonic()

    def save_if_due(self) -> None:
        """Save every `EVERY` steps, and every minute: a step may take seconds."""
        if self.step % EVERY == 0 or time.monotonic() - self._saved >= EVERY_S:
            self.save()

    def train_step(
        self, examples: Sequence[Example], regions: FaceRegions, window: Window, weights: Tensor, steps: int
    ) -> float:
        """Do one of `steps` training steps. Returns its loss."""
        if self.trained or self.step >= steps * REFINING:
            freeze_face(self.network)
        picture, audio, target = batch_of(examples, regions.mask, self.device)
        with mixed_precision(self.device):
            output = forward_window(self.network, picture, audio, window)
        loss = picture_loss(output.float(), target[:, :, window[0], window[1]], weights[window])
        scale = FINE_TUNING if self.trained else 1
        optimize(self._optimizer, loss, [learning_rate(self.step, steps, peak * scale) for peak in self._peaks])
        self.step += 1
        return loss.item()


def train(
    network: UNet,
    source: Source,
    samples: int,
    work: Path,
    stop: Stop,
    *,
    faces: int = FACES,
    sheet: Sequence[Example] | None = None,
    trained: bool = False,
    peaks: Peaks = NEW,
    title: str = LAST_STAGE,
) -> None:
    """Train, or continue from WORK/unet.pt.

    Args:
        faces: number of faces in a step, each with as many frames of speech as the source gives it.
        sheet: examples for the contact sheets; by default some of the source's.
        trained, peaks: see `UNetTraining`.
        title: for the progress bar.
    """
    training = UNetTraining(network, work, trained, peaks)
    rng = np.random.default_rng(1)
    sheet = sheet or [source.example(rng) for _ in range(4)]
    steps = samples // (faces * len(sheet[0].audio))
    regions, weights = source.regions, source.regions.weights().to(training.device)
    first, shown = training.step, {"loss": 0.0}
    network.train()
    for step in steps_with_progress(first, steps, shown, stop, title):
        rng = np.random.default_rng([3, step])
        examples = [source.example(rng) for _ in range(faces)]
        loss = training.train_step(examples, regions, regions.schedule[step % len(regions.schedule)], weights, steps)
        shown["loss"] = shown["loss"] * 0.97 + loss * 0.03 if step > first else loss
        training.save_if_due()
        if training.step % EVERY == 0:
            quality = contact_sheet(network, sheet, regions, work / f"sheet_{training.step:05d}.png")
            notes.print(f"step {training.step} of {steps}: loss {shown['loss']:.4f}, mouth {quality:.1f} dB")
    training.save()


def add_options(parser: argparse.ArgumentParser, samples: int) -> None:
    """The options of every training with a corpus."""
    parser.add_argument("corpus", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--samples", type=int, default=samples)
    parser.add_argument(
        "--begin", type=Path, help="a unet.pt of this face, trained with another encoder, to begin with"
    )
    parser.add_argument("--speeches", type=int, default=600, help="encoded once, before training")
    parser.add_argument("--hold-out", default="awb", help="a voice of the corpus that is not trained on")


def run(options: argparse.Namespace, source_of: Callable[[SpokenFrames], Source]) -> None:
    """The whole training, from the corpus to WORK/unet.pt.

    Args:
        options: see `add_options`.
        source_of: makes the source of examples from spoken frames.
    """
    torch.manual_seed(0)
    options.work.mkdir(parents=True, exist_ok=True)

    def encode_corpus() -> SpokenFrames:
        corpus = load_corpus(options.corpus, voices_of(options.corpus) - {options.hold_out})
        encoder = load_encoder_checkpoint(options.encoder)
        return spoken_frames(corpus, encoder, mel.load_filterbank(), options.speeches, seed=0)

    frames = load_or_make(options.work / "spoken.npz", encode_corpus)
    frames = quantile_matched_targets(frames, load_probe(options.encoder))
    source, network, stop = source_of(frames), UNet("half"), Stop()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # as the pictures are
    if not (options.work / "unet.pt").exists():
        if options.begin:
            network.load_state_dict(torch.load(options.begin, map_location="cpu", weights_only=True)["state_dict"])
        sound, small = stages_of(options.work, LOW_RESOLUTION_PRETRAINING, options.samples // FACES)
        pretrain_audio_branch(network.audio_model, frames, AUDIO_PRETRAINING, stop, sound)
        if not options.begin and not stop:
            pretrain_low_resolution(network, source, LOW_RESOLUTION_PRETRAINING, stop, small)
        if stop:
            return
    train(network, source, options.samples, options.work, stop, trained=bool(options.begin))
