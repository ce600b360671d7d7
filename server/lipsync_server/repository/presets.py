"""Presets: a network's width, and the arithmetic that a CPU computes it in."""

from __future__ import annotations

import math

import onnx

from lipsync_server.repository.source import SourceError

PRESETS = {  # width, arithmetic on a CPU
    "turbo": ("any", "INT8"),  # with a small head, in FP32, in place of the last stage
    "low": ("half", "INT8"),
    "medium": ("half", "BF16"),  # FP32 on CPUs that do not compute in BF16
    "high": ("full", "INT8"),
    "exact": ("any", "FP32"),
}
FULL_WIDTH = 6_000_000  # parameters: the full network has 12.2 million, the half 3.1


def choose_preset(network: onnx.ModelProto, wanted: str | None) -> str:
    """The preset to pack a network with: `wanted`, if its width is that preset's.

    Raises:
        SourceError: an unknown preset, or one of another width.
    """
    width = "full" if sum(math.prod(tensor.dims) for tensor in network.graph.initializer) > FULL_WIDTH else "half"
    preset = wanted or {"half": "medium", "full": "high"}[width]
    if preset not in PRESETS:
        raise SourceError(f"preset is {preset!r}: it must be one of {', '.join(PRESETS)}")
    if PRESETS[preset][0] not in (width, "any"):
        fitting = [name for name, (needed, _) in PRESETS.items() if needed in (width, "any")]
        raise SourceError(f"preset is {preset}, but the network has {width} width: use {' or '.join(fitting)}")
    return preset


def arithmetic_of(preset: str) -> str:
    """What a CPU computes the preset's network in: "INT8", "BF16" or "FP32"."""
    return PRESETS[preset][1]
