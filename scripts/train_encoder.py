"""Trains the audio encoder, once for all avatars: a small head must tell from its features what the mouth does.

    python scripts/train_encoder.py CORPUS WORK [--steps 1000] [--hold-out awb] [--listen REAL.wav ..]

The U-Net's training needs the head once more (`training/heard.py`). Run again to go on from the last checkpoint in
WORK; when done, `scripts/export_onnx.py encoder` makes the ONNX model from WORK/encoder.pt.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
import stages  # noqa: F401
from networks import AudioEncoder
from timeline import ROWS_BEFORE
from training import speech_data
from training.heard import SEEN, Head
from training.mouth_curves import MOUTH, mouth_curves
from training.runs import Stop, console, learning_rate, load_checkpoint, save_checkpoint, steps_with_progress

ROW_OF_WINDOW_0 = ROWS_BEFORE + 1  # in what `encoder_rows` gives
SPEECHES, PAIRS = 4, 12  # in a step: pairs of neighbouring windows (for smoothness) from a few speeches
PEAK = 2e-3
CURVE_WEIGHTS = torch.tensor([2.0, 1.0, 1.5, 2.0, 1.5, 0.7, 0.7])  # as in MOUTH; what is seen from afar counts more


def examples(filterbank, corpus: list[speech_data.Speech], rng: np.random.Generator) -> list[np.ndarray]:
    """Windows of a random speech in random circumstances: mel [24,1,80,16], curves [24,4,7], classes [24]."""
    speech = corpus[rng.integers(len(corpus))]
    speech = speech_data.change_speed(speech, rng.uniform(0.82, 1.22))
    speech = speech_data.add_silence(speech, rng.uniform(0, 0.7), rng.uniform(0.1, 0.7))
    curves, kind = mouth_curves(speech.phones, speech.audio, speech.frames)
    audio = speech_data.roughen(speech.audio, rng) if rng.random() < 0.9 else speech.audio
    windows, _ = speech_data.encoder_rows(filterbank, audio)
    first = rng.choice(speech.frames - SEEN - 1, PAIRS, replace=False)
    numbers = np.stack([first, first + 1], 1).ravel()
    frames = numbers[:, None] + 1 + np.arange(SEEN)
    return [windows[numbers + ROW_OF_WINDOW_0], curves[np.minimum(frames, len(curves) - 1)], kind[numbers + 2]]


def losses(network: AudioEncoder, head: Head, batch: list[np.ndarray]) -> dict[str, Tensor]:
    windows, curves, kind = (torch.from_numpy(part) for part in batch)
    features = network(windows)
    predicted, scores = head(features)
    change = (features[1::2] - features[::2]).square().mean() / features.var().clamp_min(1e-6)
    return {
        "curves": ((predicted - curves).square() * CURVE_WEIGHTS).mean(),
        "classes": 0.03 * functional.cross_entropy(scores, kind, label_smoothing=0.05),
        "scale": 0.01 * (features.square().mean() - 1).square(),  # the U-Net's input stays near unit power
        "smooth": 0.01 * change,
    }


@torch.no_grad()
def predict(network: AudioEncoder, head: Head, filterbank, audio: np.ndarray) -> np.ndarray:
    """The head's curves for a speech, FP32 [frames, 7]: frame i from window i-2, where it is the second of four."""
    network.eval(), head.eval()
    windows, inside = speech_data.encoder_rows(filterbank, audio)
    features = network(torch.from_numpy(windows)) * torch.from_numpy(inside)
    curves = head(features)[0][:, 1].numpy()
    network.train(), head.train()
    frames = len(windows) - 15
    return curves[ROW_OF_WINDOW_0 - 2 :][:frames]


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


def evaluate(network, head, filterbank, held_out: list[speech_data.Speech], real: list[Path]) -> str:
    """Correlation of each curve on a voice never trained on; opening against the envelope on real speech."""
    pairs = [
        (predict(network, head, filterbank, s.audio), mouth_curves(s.phones, s.audio, s.frames)[0]) for s in held_out
    ]
    got, want = (np.concatenate(side) for side in zip(*pairs, strict=True))
    told = [f"{name} {np.corrcoef(got[:, i], want[:, i])[0, 1]:.2f}" for i, name in enumerate(MOUTH)]
    for path in real:
        audio = speech_data.read_wav(path)
        r, rest = correlation_with_envelope(predict(network, head, filterbank, audio)[:, 0], audio)
        told.append(f"[{path.stem[-12:]} r {r:.2f} rest {rest:.2f}]")
    return " ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--hold-out", default="awb", help="a voice of the corpus to test on")
    parser.add_argument("--listen", type=Path, nargs="*", default=[], help="real speech to test on, 16 kHz mono")
    options = parser.parse_args()
    voices = {path.stem.split("_")[0] for path in options.corpus.glob("*.json")}
    corpus = speech_data.load_corpus(options.corpus, voices - {options.hold_out})
    held_out = speech_data.load_corpus(options.corpus, {options.hold_out})[:12]
    filterbank = speech_data.load_filterbank(options.work)

    torch.manual_seed(0)
    network, head = AudioEncoder(), Head()
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK, weight_decay=0.02)
    path, first = options.work / "encoder.pt", 0
    if state := load_checkpoint(path):
        network.load_state_dict(state["state_dict"])
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    def save(step: int) -> None:
        state = {"head": head.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        save_checkpoint(path, {"state_dict": network.state_dict(), **state})

    notes: dict[str, float] = {}
    stop, step = Stop(), first - 1
    for step in steps_with_progress(first, options.steps, notes, stop):
        rng = np.random.default_rng([7, step])
        speeches = [examples(filterbank, corpus, rng) for _ in range(SPEECHES)]
        batch = [np.concatenate(parts) for parts in zip(*speeches, strict=True)]
        parts = losses(network, head, batch)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, PEAK)
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for name, value in parts.items():
            notes[name] = 0.98 * notes.get(name, value.item()) + 0.02 * value.item()
        if step % 100 == 99:
            save(step + 1)
            told = evaluate(network, head, filterbank, held_out, options.listen)
            console.print(
                f"step {step + 1}: {' '.join(f'{k} {v:.4f}' for k, v in notes.items())} | {told}", markup=False
            )
    save(step + 1)


if __name__ == "__main__":
    main()
