"""Trains the audio encoder, once for all avatars: a listener must tell from its features what the mouth does.

    python scripts/train_encoder.py CORPUS WORK [--steps 4000] [--hold-out awb] [--listen REAL.wav ..] [--from-shipped]

The U-Net's training needs the listener once more (`training/heard.py`). Run again to go on from the last checkpoint in
WORK; when done, `scripts/export_onnx.py encoder` makes the ONNX model from WORK/encoder.pt, and
`training.shipped_encoder` keeps the listener beside it.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipsync_mel import mel
from lipsync_mel.timeline import ROWS_BEFORE, ROWS_PER_FRAME
from lipsync_studio.corpus import speech_data
from lipsync_studio.corpus.mouth_curves import MOUTH, Phone, classes, mouth_curves
from lipsync_studio.networks import AudioEncoder
from lipsync_studio.training.heard import Listener, of_each_frame
from lipsync_studio.training.runs import (
    Stop,
    console,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    steps_with_progress,
)
from lipsync_studio.training.shipped_encoder import read_encoder, read_listener

SPEECHES, STRETCH = 5, 14  # in a step: so many frames in a row of a few speeches
STARTS = 0.15  # of the stretches begin where the speech does, with rows before the feature list
LIPS = 0.5  # of the others hold a p, b, m, f or v: rare, and noticed at once where they are missed
PEAK = 2e-3
WARM_UP = 200  # steps: until the listener has learnt something, its errors say little about the encoder
EVERY = 250  # steps between checkpoints
GENTLY = 0.5  # the rate of what has been trained before, relative to what begins from nothing
SEES = ROWS_BEFORE - 1  # a row's window sees the frame of this many numbers less in its middle
CURVE_WEIGHTS = torch.tensor([2.0, 1.0, 1.5, 3.0, 2.5, 0.7, 0.7])  # as in MOUTH; what is seen from afar counts more
Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # windows [B,R,1,80,16], inside [B,R,1], curves [B,F,7], classes [B,F]


def example(filterbank, corpus: list[speech_data.Speech], rng: np.random.Generator) -> list[np.ndarray]:
    """`STRETCH` frames of a random speech in random circumstances, and the windows that they read."""
    speech = corpus[rng.integers(len(corpus))]
    speech = speech_data.change_speed(speech, rng.uniform(0.82, 1.22))
    speech = speech_data.add_silence(speech, rng.uniform(0, 0.7), rng.uniform(0.1, 0.7))
    curves, kind = mouth_curves(speech.phones, speech.audio, speech.frames)
    audio = speech_data.add_breaths(speech, rng).audio if rng.random() < 0.6 else speech.audio
    audio = speech_data.roughen(audio, rng) if rng.random() < 0.9 else audio
    windows, inside = speech_data.encoder_rows(filterbank, audio)
    windows = speech_data.other_throat(windows, *(rng.uniform(0.88, 1.14) * rng.uniform(0.93, 1.07, 4)))
    if rng.random() < 0.7:
        windows = speech_data.other_timbre(windows, rng)
    first = 0 if rng.random() < STARTS else int(rng.integers(speech.frames - STRETCH + 1))
    lips = np.flatnonzero(lips_count(curves))
    if first and len(lips) and rng.random() < LIPS:
        first = int(np.clip(rng.choice(lips) - rng.integers(STRETCH), 0, speech.frames - STRETCH))
    rows, frames = slice(first, first + STRETCH + ROWS_PER_FRAME - 1), slice(first, first + STRETCH)
    return [windows[rows], inside[rows], curves[frames], kind[frames]]


def lips_count(curves):
    """Where lips are pressed or bitten, of an array or a tensor [..,7]."""
    return (curves[..., MOUTH.index("press")] > 0.6) | (curves[..., MOUTH.index("bite")] > 0.6)


def batch_of(filterbank, corpus: list[speech_data.Speech], rng: np.random.Generator) -> Batch:
    parts = zip(*(example(filterbank, corpus, rng) for _ in range(SPEECHES)), strict=True)
    windows, inside, curves, kind = (torch.from_numpy(np.stack(part)) for part in parts)
    return windows, inside, curves, kind


def losses(network: AudioEncoder, listener: Listener, teller: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Of curves told by the listener from all rows, and (a help at first) by `teller` from each row alone."""
    windows, inside, curves, kind = batch
    with torch.autocast("cpu", torch.bfloat16):  # twice as fast
        features = network(windows.flatten(0, 1)).float().unflatten(0, windows.shape[:2]) * inside
    heard = listener(torch.cat([of_each_frame(rows) for rows in features])).unflatten(0, curves.shape[:2])
    told = teller(features[:, SEES : SEES + STRETCH])
    weights = CURVE_WEIGHTS * (1 + 2 * lips_count(curves)[..., None])
    change = (features[:, 1:] - features[:, :-1]).square().mean() / features.var().clamp_min(1e-6)
    return {
        "curves": ((heard - curves).square() * weights).mean(),
        "alone": 0.5 * ((told[..., : len(MOUTH)].sigmoid() - curves).square() * weights).mean(),
        "classes": 0.03 * functional.cross_entropy(told[..., len(MOUTH) :].flatten(0, 1), kind.flatten()),
        "scale": 0.01 * (features.square().mean() - 1).square(),  # the U-Net's input stays near unit power
        "smooth": 0.01 * change,
    }


@torch.no_grad()
def predict(network: AudioEncoder, listener: Listener, filterbank, audio: np.ndarray) -> np.ndarray:
    """The listener's curves for a speech, FP32 [frames, 7]."""
    network.eval(), listener.eval()
    windows, inside = speech_data.encoder_rows(filterbank, audio)
    features = network(torch.from_numpy(windows)) * torch.from_numpy(inside)
    return listener(of_each_frame(features)).numpy()


def closed(curves: np.ndarray, phones: tuple[Phone, ...]) -> list[bool]:
    """Whether the lips are pressed at some time of each p, b and m."""
    begins = [0.0, *(end for _, end in phones)]
    spans = [(b, end) for b, (name, end) in zip(begins, phones, strict=False) if name in ("p", "b", "m")]
    return [bool(curves[int(b * 25) : math.ceil(end * 25) + 1, MOUTH.index("press")].max() > 0.5) for b, end in spans]


def envelope(audio: np.ndarray, frames: int) -> np.ndarray:
    """Loudness of a speech around each frame's time, dB relative to its loud parts, FP64 [frames]."""
    at = np.arange(frames) * 640
    padded = np.pad(audio.astype(np.float64), 800)
    power = np.array([np.square(padded[i + 320 : i + 1280]).mean() for i in at])
    return 10 * np.log10(power / np.percentile(power, 95) + 1e-5)


def correlation_with_envelope(opening: np.ndarray, audio: np.ndarray) -> tuple[float, float]:
    """(r of the opening with the speech envelope, mean opening in pauses longer than 0.3 s, nan if there are none)."""
    level = envelope(audio, len(opening))
    quiet = level < -30
    runs = np.convolve(quiet, np.ones(8), "same") > 7.5
    rest = float(opening[runs].mean()) if runs.any() else math.nan
    return float(np.corrcoef(opening, np.sqrt(10 ** (np.clip(level, -40, 3) / 20)))[0, 1]), rest


def evaluate(network, listener, filterbank, held_out: list[speech_data.Speech], real: list[Path]) -> str:
    """Correlation of each curve on a voice never trained on; opening against the envelope on real speech."""
    got = [predict(network, listener, filterbank, s.audio) for s in held_out]
    want = [mouth_curves(s.phones, s.audio, s.frames)[0] for s in held_out]
    lips = [c for curves, s in zip(got, held_out, strict=True) for c in closed(curves, s.phones)]
    x, y = np.concatenate(got), np.concatenate(want)
    told = [f"{name} {np.corrcoef(x[:, i], y[:, i])[0, 1]:.2f}" for i, name in enumerate(MOUTH)]
    told.append(f"pbm {np.mean(lips):.2f}")
    for path in real:
        audio = speech_data.read_wav(path)
        r, rest = correlation_with_envelope(predict(network, listener, filterbank, audio)[:, 0], audio)
        told.append(f"[{path.stem[-12:]} r {r:.2f} rest {rest:.2f}]")
    return " ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--hold-out", default="awb", help="a voice of the corpus to test on")
    parser.add_argument("--listen", type=Path, nargs="*", default=[], help="real speech to test on, 16 kHz mono")
    parser.add_argument(
        "--from-shipped", action="store_true", help="go on from the shipped encoder: fewer steps will do"
    )
    options = parser.parse_args()
    voices = {path.stem.split("_")[0] for path in options.corpus.glob("*.json")}
    corpus = speech_data.load_corpus(options.corpus, voices - {options.hold_out})
    held_out = speech_data.load_corpus(options.corpus, {options.hold_out})[:12]
    filterbank = mel.load_filterbank()

    torch.manual_seed(0)
    network = read_encoder() if options.from_shipped else AudioEncoder()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    listener = read_listener() if options.from_shipped else Listener()
    teller = nn.Sequential(nn.Dropout(0.1), nn.Linear(512, len(MOUTH) + len(classes())))
    new = [*listener.parameters(), *teller.parameters()]
    optimizer = torch.optim.AdamW([{"params": [*network.parameters()]}, {"params": new}], weight_decay=0.02)
    path, first = options.work / "encoder.pt", 0
    if state := load_checkpoint(path):
        network.load_state_dict(state["state_dict"])
        listener.load_state_dict(state["listener"])
        teller.load_state_dict(state["teller"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    def save(step: int) -> None:
        state = {"listener": listener.state_dict(), "teller": teller.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(path, {"state_dict": network.state_dict(), **state, "step": step})

    notes: dict[str, float] = {}
    stop, step = Stop(), first - 1
    for step in steps_with_progress(first, options.steps, notes, stop):
        network.train(not options.from_shipped), listener.train()  # the shipped one's batch norm is in its convolutions
        parts = losses(network, listener, teller, batch_of(filterbank, corpus, np.random.default_rng([7, step])))
        for group, share in zip(optimizer.param_groups, (GENTLY if options.from_shipped else 1.0, 1.0), strict=True):
            group["lr"] = share * learning_rate(step, options.steps, PEAK, WARM_UP)
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_([*network.parameters(), *new], 1.0)
        optimizer.step()
        for name, value in parts.items():
            notes[name] = 0.98 * notes.get(name, value.item()) + 0.02 * value.item()
        if step % EVERY == EVERY - 1:
            save(step + 1)
            told = evaluate(network, listener, filterbank, held_out, options.listen)
            console.print(
                f"step {step + 1}: {' '.join(f'{k} {v:.4f}' for k, v in notes.items())} | {told}", markup=False
            )
    save(step + 1)


if __name__ == "__main__":
    main()
