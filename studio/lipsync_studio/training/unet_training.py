"""Trains an avatar's U-Net: (face crop, the same with its mouth masked, 16 rows of audio features) -> speaking face.

Examples come from any `unet_examples.Source`, for instance `rendered/train.py`. ENCODER.pt: the shipped encoder, from
`training.shipped_encoder`, or a new one from `train_encoder.py`. Run again to go on from WORK/unet.pt;
WORK/sheet_*.png shows how far it is: above what the face should do, below what it does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from lipsync_mel import mel
from lipsync_studio.corpus import speech_data
from lipsync_studio.corpus.features import SpokenFrames, load_or_make, spoken_frames
from lipsync_studio.networks import UNet, load_encoder_checkpoint
from lipsync_studio.training.coarse_first import coarse_first
from lipsync_studio.training.heard import as_heard, load_listener
from lipsync_studio.training.listen_first import listen_first
from lipsync_studio.training.runs import (
    Stop,
    console,
    device_of,
    learning_rate,
    load_checkpoint,
    mixed,
    save_checkpoint,
    steps_with_progress,
)
from lipsync_studio.training.unet_examples import WHOLE, Example, Places, Source, Window, batch_of, picture_loss

FACES = 2
PEAK = 1.5e-3
LISTENING = 600  # steps in which the audio branch learns to listen, before there are pictures
COARSE = 300  # steps in which all but the last stages learn from small pictures
EVERY = 100  # steps between checkpoints
SETTLE = 0.75  # the last part of the run, see `settle`
GENTLY = 0.5  # the rate where the face is known, relative to where it is not


def _enlarge(x: Tensor, parts: Window, window: Window) -> Tensor:
    """A window of `network.up5.up` (160 -> 320, bilinear, corners aligned) from those rows and columns of its input."""
    with torch.autocast(x.device.type, enabled=False):
        ways = []
        for part, wanted in zip(parts, window, strict=True):
            at = torch.arange(wanted.start, wanted.stop, device=x.device)[:, None] * (159 / 319)
            ways.append((1 - (at - torch.arange(part.start, part.stop, device=x.device)).abs()).clamp_min(0))
        return ways[0] @ x.float() @ ways[1].T


def speak(network: UNet, pictures: Tensor, audio: Tensor, window: Window) -> Tensor:
    """What `UNet.forward` computes, for several moments of speech a face, its last and dearest stages only in a window.

    Args:
        pictures: [N,6,320,320].
        audio: [N*K,32,16,16].
        window: rows and columns of the output; correct except for 2 pixels at its edges (if they are not the crop's).
    """
    skips = [network.inc(pictures)]
    for down in (network.down1, network.down2, network.down3, network.down4, network.down5):
        skips.append(down(skips[-1]))
    skips = [skip.repeat_interleave(len(audio) // len(pictures), 0) for skip in skips]
    x = network.fuse_conv(torch.cat([skips.pop(), network.audio_model(audio)], dim=1))
    for up in (network.up1, network.up2, network.up3):
        x = up(x, skips.pop())
    parts = tuple(slice(max(0, side.start // 2 - 4), min(160, side.stop // 2 + 4)) for side in window)
    x = network.up4.conv(torch.cat([network.up4.up(x), skips.pop()], dim=1)[:, :, parts[0], parts[1]])
    near = skips.pop()[:, :, window[0], window[1]]
    return torch.sigmoid(network.outc(network.up5.conv(torch.cat([_enlarge(x, parts, window).to(near), near], dim=1))))


def settle(network: UNet) -> None:
    """BatchNorm as when the network is used; the face is known by now, only speaking is refined. Also half as dear."""
    network.eval()
    for part in (network.inc, network.down1, network.down2, network.down3, network.down4, network.down5):
        part.requires_grad_(False)


@torch.no_grad()
def contact_sheet(network: UNet, examples: list[Example], places: Places, path: Path) -> float:
    """Write targets above outputs; PSNR of the mouth's part in dB, as after the product's truncation to uint8."""
    network.eval()
    picture, audio, _ = batch_of(examples, places.mask, device_of(network))
    output = (speak(network, picture, audio, WHOLE) * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    network.train()
    targets = np.concatenate([e.targets for e in examples])
    part = (slice(None), *places.mouth)
    cv2.imwrite(str(path), np.vstack([np.hstack(list(targets[part])), np.hstack(list(output[part]))]))
    return psnr(output[part], targets[part])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise of uint8 pictures, dB."""
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


def train(
    network: UNet,
    source: Source,
    samples: int,
    work: Path,
    stop: Stop,
    *,
    faces: int = FACES,
    shown: list[Example] | None = None,
    known: bool = False,
) -> None:
    """Train, resuming from WORK/unet.pt.

    Args:
        faces: in a step, each with the moments of speech that the source gives it.
        shown: what the sheets show; some of the source's examples if not given.
        known: the network knows the face from an earlier training, so it need not learn it first.
    """
    device = device_of(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK, weight_decay=0.01)
    path, first = work / "unet.pt", 0
    if state := load_checkpoint(path):
        network.load_state_dict(state["state_dict"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    def save(step: int) -> None:
        state = {"state_dict": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        save_checkpoint(path, state)

    rng = np.random.default_rng(1)
    shown = shown or [source.example(rng) for _ in range(4)]
    steps = samples // (faces * len(shown[0].audio))
    turns, weights = source.places.turns, source.places.weights().to(device)
    notes, step = {"loss": 0.0}, first - 1
    network.train()
    for step in steps_with_progress(first, steps, notes, stop):
        if known or step >= steps * (1 - SETTLE):
            settle(network)
        window = turns[step % len(turns)]
        rng = np.random.default_rng([3, step])
        picture, audio, target = batch_of([source.example(rng) for _ in range(faces)], source.places.mask, device)
        with mixed(device):
            output = speak(network, picture, audio, window)
        loss = picture_loss(output.float(), target[:, :, window[0], window[1]], weights[window])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, PEAK * (GENTLY if known else 1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        notes["loss"] = notes["loss"] * 0.97 + loss.item() * 0.03 if step > first else loss.item()
        if step % EVERY == EVERY - 1:
            save(step + 1)
            quality = contact_sheet(network, shown, source.places, work / f"sheet_{step + 1:05d}.png")
            console.print(f"step {step + 1} of {steps}: loss {notes['loss']:.4f}, mouth {quality:.1f} dB")
    save(step + 1)


def add_options(parser: argparse.ArgumentParser, samples: int) -> None:
    """What every avatar's training asks for."""
    parser.add_argument("corpus", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--samples", type=int, default=samples)
    parser.add_argument("--begin", type=Path, help="a unet.pt of this face, learnt with another encoder, to go on from")
    parser.add_argument("--speeches", type=int, default=600, help="encoded once, before training")
    parser.add_argument("--hold-out", default="awb", help="a voice of the corpus that is not trained on")


def run(options: argparse.Namespace, source_of: Callable[[SpokenFrames], Source]) -> None:
    """The whole training, from the corpus to WORK/unet.pt, on the pictures that `source_of` has for spoken frames."""
    torch.manual_seed(0)
    options.work.mkdir(parents=True, exist_ok=True)

    def speak() -> SpokenFrames:
        voices = {path.stem.split("_")[0] for path in options.corpus.glob("*.json")} - {options.hold_out}
        corpus = speech_data.load_corpus(options.corpus, voices)
        filterbank = mel.load_filterbank()
        return spoken_frames(corpus, load_encoder_checkpoint(options.encoder), filterbank, options.speeches, seed=0)

    frames = as_heard(load_or_make(options.work / "spoken.npz", speak), load_listener(options.encoder))
    source, network, stop = source_of(frames), UNet("half"), Stop()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # as the pictures are
    if not (options.work / "unet.pt").exists():
        if options.begin:
            network.load_state_dict(torch.load(options.begin, map_location="cpu", weights_only=True)["state_dict"])
        listen_first(network.audio_model, frames, LISTENING, stop)
        if not options.begin:
            coarse_first(network, source, COARSE, stop)
        if stop:
            return
    train(network, source, options.samples, options.work, stop, known=bool(options.begin))
