"""What a public model takes and gives, as its config on the upstream says."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from lipsync_client.wire import COMPOSITE_MODEL
from lipsync_mel import timeline
from lipsync_server.gateway.refusal import Refused

__all__ = ["ITEM_SIZES", "Contract", "Tensor"]

ITEM_SIZES = {
    **{"BOOL": 1, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8},
    **{"UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8},
}
OF_FOOTAGE = ("avatar_key", "footage_position", "frame_index")  # what composite takes from outside: no mouth, no clock


@dataclass(frozen=True)
class Tensor:
    """An input.

    Attributes:
        dtype: Triton's name of it.
        dims: its shape; -1 is any length up to `longest`.
        longest: rows, or samples of AUDIO.
    """

    dtype: str
    dims: tuple[int, ...]
    longest: int


@dataclass(frozen=True)
class Contract:
    """A public model.

    Attributes:
        model: its name.
        inputs: by name.
        outputs: data types by name.
    """

    model: str
    inputs: dict[str, Tensor]
    outputs: dict[str, str]

    @classmethod
    def of(cls, config: ModelConfig) -> Contract:
        """The contract of a loaded model. Raises Refused for an inner one."""
        if not config.HasField("ensemble_scheduling") and config.name != COMPOSITE_MODEL:
            raise Refused(
                grpc.StatusCode.PERMISSION_DENIED,
                f"{config.name} is an inner model: call an avatar's ensemble, or {COMPOSITE_MODEL} for plain footage",
                "inner model",
            )
        batch = (-1,) if config.max_batch_size else ()
        inputs = {
            one.name: Tensor(_dtype(one.data_type), (*batch, *one.dims), _longest(one.name))
            for one in config.input
            if config.name != COMPOSITE_MODEL or one.name in OF_FOOTAGE
        }
        return cls(config.name, inputs, {one.name: _dtype(one.data_type) for one in config.output})


def _longest(name: str) -> int:
    return timeline.MAX_SAMPLES if name == "AUDIO" else timeline.MAX_FRAMES


def _dtype(number: int) -> str:
    """As requests name it: TYPE_FP32 is FP32, TYPE_STRING is BYTES."""
    name = DataType.Name(number).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name
