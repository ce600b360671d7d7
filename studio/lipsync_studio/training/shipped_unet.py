"""Reads an exported U-Net back into PyTorch, to train on from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from lipsync_studio.networks import AUDIO_CHANNELS, CheckpointError, UNet

__all__ = ["drop_batch_norms", "plain_unet", "read_unet"]

CONVOLUTIONS = 93


def plain_unet(widths: str | list[int]) -> UNet:
    """A U-Net without batch norms, as an export has it: each convolution has a bias in their place.

    A step takes a fifth less time, and does the same for a batch of one as for a large one.
    """
    network = UNet(widths)
    for conv in _convolutions(network):
        if conv.bias is None:
            conv.bias = nn.Parameter(torch.zeros(conv.out_channels))
    drop_batch_norms(network)
    return network


@torch.no_grad()
def read_unet(path: Path) -> UNet:
    """The network of an exported U-Net, ready for inference. It has no batch norms, see `plain_unet`.

    Raises:
        CheckpointError: the file is not a U-Net that `lipsync_studio.export` wrote.
    """
    model = onnx.load(path)
    weights = {i.name.removesuffix(".half"): numpy_helper.to_array(i) for i in model.graph.initializer}
    stored = [node.input[1:3] for node in model.graph.node if node.op_type == "Conv"]
    if len(stored) != CONVOLUTIONS:
        raise CheckpointError(f"{path}: has {len(stored)} convolutions, a U-Net has {CONVOLUTIONS}: give its export")
    first = len(weights[stored[2][0]])  # the third is the last one of the first stage
    network = plain_unet([first * 2**i for i in range(5)]).eval()
    for names, conv in zip(stored, _in_order(network), strict=True):
        weight, bias = (torch.from_numpy(weights[name].astype(np.float32)) for name in names)
        if weight.shape != conv.weight.shape or bias.shape != (conv.out_channels,):
            raise CheckpointError(f"{path}: {names[0]} is {list(weight.shape)}, must be {list(conv.weight.shape)}")
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def drop_batch_norms(network: nn.Module) -> None:
    """Remove the batch norms of a network whose convolutions have them folded in."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())


def _convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def _in_order(network: UNet) -> list[nn.Conv2d]:
    """The convolutions in the order of computation, which is that of an export."""
    called: list[nn.Conv2d] = []
    hooks = [conv.register_forward_hook(lambda conv, *_: called.append(conv)) for conv in _convolutions(network)]
    network(torch.zeros(1, 6, 320, 320), torch.zeros(1, AUDIO_CHANNELS, 16, 16))
    for hook in hooks:
        hook.remove()
    return called
