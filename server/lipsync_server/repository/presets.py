"""Presets: a network's width, and the arithmetics that are exact enough on a CPU; a trial takes the fastest."""

from __future__ import annotations

import math
from typing import NamedTuple

import onnx

from lipsync_onnx.engines import BF16, ONNXRUNTIME, OPENVINO
from lipsync_server.repository.source import SourceError

PRESETS = {  # width, the least exact arithmetic that a CPU may compute it in
    "turbo": ("any", "INT8"),  # with a small head, in FP32, in place of the last stage
    "low": ("half", "INT8"),
    "medium": ("half", "BF16"),
    "high": ("full", "INT8"),
    "exact": ("any", "FP32"),
}


class Way(NamedTuple):
    """How a CPU runs a network."""

    arithmetic: str  # "INT8", "BF16" or "FP32"
    engine: str  # as `lipsync_onnx.engines` names it

    @property
    def network(self) -> str:
        """Which network it runs: "INT8" or "FP32"."""
        return "INT8" if self.arithmetic == "INT8" else "FP32"

    def __str__(self) -> str:
        return f"{self.arithmetic} by {OPENVINO if self.engine == BF16 else self.engine}"

    @classmethod
    def named(cls, name: str) -> Way:
        """The way that a string names. Raises StopIteration: there is none."""
        return next(way for ways in WAYS.values() for way in ways if str(way) == name)


IN_FP32 = (Way("FP32", ONNXRUNTIME), Way("FP32", OPENVINO))
IN_INT8 = (Way("INT8", OPENVINO), Way("INT8", ONNXRUNTIME))
WAYS = {  # by the least exact arithmetic; those likely to be the fastest first
    "INT8": (*IN_INT8, *IN_FP32[::-1], Way("BF16", BF16)),
    "BF16": (Way("BF16", BF16), *IN_FP32[::-1]),
    "FP32": IN_FP32,
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
    """The least exact arithmetic that a CPU may compute the preset's network in: "INT8", "BF16" or "FP32"."""
    return PRESETS[preset][1]


def ways_of(preset: str) -> tuple[Way, ...]:
    """The ways in which a CPU may run the preset's network, the first without a trial."""
    return WAYS[arithmetic_of(preset)]
