"""The shipped audio encoder as a checkpoint to train U-Nets with, and the listener that tells what it hears.

    PYTHONPATH=scripts python -m training.shipped_encoder OUT.pt            # encoder.onnx + listener.npz -> OUT.pt
    PYTHONPATH=scripts python -m training.shipped_encoder --keep ENCODER.pt  # ENCODER.pt of a training -> listener.npz

OUT.pt is what `rendered/train.py` asks for as ENCODER.pt: no avatar needs the encoder trained again. The encoder's
weights are read back from its ONNX file (FP16, batch norm folded), so the served features and these are the same.
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
from lipsync_studio.networks import AudioEncoder
from lipsync_studio.training.heard import Listener, load_listener
from lipsync_studio.training.runs import save_checkpoint

FOLDER = home.AVATARS / "audio_encoder"


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


def read_listener(path: Path = FOLDER / "listener.npz") -> Listener:
    """The shipped listener, ready for inference."""
    listener = Listener()
    with np.load(path) as stored:
        listener.load_state_dict({name: torch.from_numpy(stored[name].astype(np.float32)) for name in stored})
    return listener.eval()


def write_listener(listener: Listener, path: Path = FOLDER / "listener.npz") -> None:
    """FP16: 0.9 MB."""
    np.savez(path, **{name: value.numpy().astype(np.float16) for name, value in listener.state_dict().items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--keep", action="store_true", help="write listener.npz from the checkpoint of a training")
    options = parser.parse_args()
    if options.keep:
        write_listener(load_listener(options.checkpoint))
    else:
        state = {"state_dict": read_encoder().state_dict(), "listener": read_listener().state_dict()}
        save_checkpoint(options.checkpoint, state)


if __name__ == "__main__":
    main()
