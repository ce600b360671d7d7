"""Writes the shipped audio encoder, with its articulation probe, as a checkpoint for training.

    python -m lipsync_studio.training.shipped_encoder OUT.pt             # writes a checkpoint of the shipped files
    python -m lipsync_studio.training.shipped_encoder --keep ENCODER.pt  # ships the probe of a training's checkpoint

`scripts/rendered/train.py` takes OUT.pt as its ENCODER.pt, so no avatar needs the encoder trained again. The weights
are read back from the encoder's ONNX file (FP16, batch norm folded), so training sees the served features.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from lipsync_server import home
from lipsync_studio.networks import AudioEncoder, CheckpointError
from lipsync_studio.training.articulation_probe import STATE_KEY, ArticulationProbe, load_probe
from lipsync_studio.training.runs import save_checkpoint

FOLDER = home.AVATARS / "audio_encoder"
PROBE = FOLDER / "articulation_probe.npz"


@torch.no_grad()
def read_encoder(path: Path = FOLDER / "encoder.onnx") -> AudioEncoder:
    """The network of an exported audio encoder, ready for inference.

    Raises:
        CheckpointError: the file is not an audio encoder that `lipsync_studio.export` wrote.
    """
    model, network = onnx.load(path), AudioEncoder().eval()
    weights = {i.name.removesuffix(".half"): numpy_helper.to_array(i) for i in model.graph.initializer}
    stored = [node.input[1:3] for node in model.graph.node if node.op_type == "Conv"]
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    if not len(stored) == len(convs) == len(norms):
        raise CheckpointError(
            f"{path}: has {len(stored)} convolutions, the audio encoder has {len(convs)}: give its export"
        )
    for names, conv, norm in zip(stored, convs, norms, strict=True):
        weight, bias = (torch.from_numpy(weights[name].astype(np.float32)) for name in names)
        if conv.weight.shape != weight.shape or conv.bias is None:
            raise CheckpointError(f"{path}: {names[0]} is {list(weight.shape)}, must be {list(conv.weight.shape)}")
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
        norm.weight.fill_((1 + norm.eps) ** 0.5)  # batch norm is folded into the convolution: make it the identity
    return network


def read_probe(path: Path = PROBE) -> ArticulationProbe:
    """The shipped articulation probe, ready for inference."""
    probe = ArticulationProbe()
    with np.load(path) as stored:
        probe.load_state_dict({name: torch.from_numpy(stored[name].astype(np.float32)) for name in stored})
    return probe.eval()


def write_probe(probe: ArticulationProbe, path: Path = PROBE) -> None:
    """Store a probe as FP16, 1.9 MB."""
    np.savez(path, **{name: value.numpy().astype(np.float16) for name, value in probe.state_dict().items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--keep", action="store_true", help=f"write {PROBE.name} from the checkpoint of a training")
    options = parser.parse_args()
    if options.keep:
        write_probe(load_probe(options.checkpoint))
    else:
        state = {"state_dict": read_encoder().state_dict(), STATE_KEY: read_probe().state_dict()}
        save_checkpoint(options.checkpoint, state)


if __name__ == "__main__":
    main()
