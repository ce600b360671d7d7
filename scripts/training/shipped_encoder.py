"""The shipped audio encoder as a checkpoint to train U-Nets with, and the head that tells what it hears.

    PYTHONPATH=scripts python -m training.shipped_encoder OUT.pt                  # encoder.onnx + head.npz -> OUT.pt
    PYTHONPATH=scripts python -m training.shipped_encoder OUT.pt --fit CORPUS     # fits head.npz anew first, minutes

OUT.pt is what `train_unet.py` asks for as ENCODER.pt: no avatar needs the encoder trained again. The encoder's weights
are read back from its ONNX file (FP16, batch norm folded), so the served features and these are the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from rich.progress import track
from torch import nn
from torch.nn import functional
import stages
from networks import AudioEncoder
from timeline import ROWS_BEFORE
from training import speech_data
from training.features import encode
from training.heard import SEEN, Head
from training.mouth_curves import MOUTH, mouth_curves
from training.runs import console, save_checkpoint

FOLDER = stages.ROOT / "avatars" / "audio_encoder"
ROW_OF_WINDOW_0 = ROWS_BEFORE + 1
CURVE_WEIGHTS = torch.tensor([2.0, 1.0, 1.5, 2.0, 1.5, 0.7, 0.7])  # as in `train_encoder.py`
PASSES, BATCH, PEAK = 12, 512, 2e-3
Examples = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # features [N,512], curves [N,4,7], classes [N]


@torch.no_grad()
def read_encoder(path: Path = FOLDER / "encoder.onnx") -> AudioEncoder:
    """The network of an exported audio encoder, ready for inference.

    Raises:
        ValueError: the file holds other weights than `export_onnx.py encoder` writes.
    """
    model, network = onnx.load(path), AudioEncoder().eval()
    weights = {i.name.removesuffix(".half"): numpy_helper.to_array(i) for i in model.graph.initializer}
    stored = [node.input[1:3] for node in model.graph.node if node.op_type == "Conv"]
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    if not len(stored) == len(convs) == len(norms):
        raise ValueError(f"{path}: has {len(stored)} convolutions, the audio encoder has {len(convs)}: give its export")
    for names, conv, norm in zip(stored, convs, norms, strict=True):
        weight, bias = (torch.from_numpy(weights[name].astype(np.float32)) for name in names)
        if conv.weight.shape != weight.shape or conv.bias is None:
            raise ValueError(f"{path}: {names[0]} is {list(weight.shape)}, must be {list(conv.weight.shape)}")
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
        norm.weight.fill_((1 + norm.eps) ** 0.5)  # the batch norm is in the convolution already: let it do nothing
    return network


def read_head(path: Path = FOLDER / "head.npz") -> Head:
    """The shipped head, ready for inference."""
    head = Head()
    with np.load(path) as stored:
        head.load_state_dict({name: torch.from_numpy(stored[name].astype(np.float32)) for name in stored})
    return head.eval()


def write_head(head: Head, path: Path) -> None:
    """FP16: 0.3 MB."""
    np.savez(path, **{name: value.numpy().astype(np.float16) for name, value in head.state_dict().items()})


def heard_windows(encoder: AudioEncoder, filterbank, corpus: list[speech_data.Speech], seed: int) -> Examples:
    """Every window of the corpus, most of it as rooms and microphones leave it, and what it should tell."""
    rng = np.random.default_rng(seed)
    parts: list[tuple[np.ndarray, ...]] = []
    for speech in track(corpus, description="encoding speech"):
        speech = speech_data.change_speed(speech, rng.uniform(0.85, 1.18))
        speech = speech_data.add_silence(speech, rng.uniform(0, 0.6), rng.uniform(0.1, 0.6))
        curves, kind = mouth_curves(speech.phones, speech.audio, speech.frames)
        audio = speech_data.roughen(speech.audio, rng) if rng.random() < 0.8 else speech.audio
        rows = encode(encoder, filterbank, audio)
        numbers = np.arange(speech.frames - SEEN - 1)
        parts.append(
            (rows[numbers + ROW_OF_WINDOW_0], curves[numbers[:, None] + 1 + np.arange(SEEN)], kind[numbers + 2])
        )
    heard, wanted, kinds = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    return heard.float(), wanted.float(), kinds.long()


def fit_head(examples: Examples) -> Head:
    """A head for an encoder that stays as it is; the losses are those of `train_encoder.py`."""
    torch.manual_seed(0)
    head, (features, curves, kind) = Head().train(), examples
    optimizer = torch.optim.AdamW(head.parameters(), lr=PEAK, weight_decay=0.02)
    steps = PASSES * (len(features) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=steps)
    for _ in track(range(steps), description="fitting the head"):
        chosen = torch.randint(len(features), (BATCH,))
        predicted, scores = head(features[chosen])
        loss = ((predicted - curves[chosen]).square() * CURVE_WEIGHTS).mean()
        loss = loss + 0.03 * functional.cross_entropy(scores, kind[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


@torch.no_grad()
def told(head: Head, examples: Examples) -> dict[str, float]:
    """Correlation of each curve with the truth, at each window's second frame."""
    got, want = head(examples[0])[0][:, 1].numpy(), examples[1][:, 1].numpy()
    return {name: float(np.corrcoef(got[:, i], want[:, i])[0, 1]) for i, name in enumerate(MOUTH)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fit", type=Path, metavar="CORPUS", help="from `training.speech_data`; writes head.npz")
    parser.add_argument("--hold-out", default="awb", help="a voice of the corpus to test on")
    options = parser.parse_args()
    encoder = read_encoder()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.fit:
        filterbank = speech_data.load_filterbank(options.out.parent)
        voices = {path.stem.split("_")[0] for path in options.fit.glob("*.json")}
        corpus = speech_data.load_corpus(options.fit, voices - {options.hold_out})
        head = fit_head(heard_windows(encoder, filterbank, corpus, seed=0))
        held_out = speech_data.load_corpus(options.fit, {options.hold_out})[:24]
        measured = told(head, heard_windows(encoder, filterbank, held_out, seed=1))
        console.print(f"{options.hold_out}: " + " ".join(f"{name} {r:.2f}" for name, r in measured.items()))
        write_head(head, FOLDER / "head.npz")
    save_checkpoint(options.out, {"state_dict": encoder.state_dict(), "head": read_head().state_dict()})


if __name__ == "__main__":
    main()
