"""A served network as TensorRT takes it best, from the one that CUDA runs.

TensorRT keeps UINT8 constants as INT32 in each engine, and knows UINT8 only at an engine's ends. So
- the face crops become UINT16, which it does not know: their Gather stays outside of the engines, on CUDA;
- the mouth is transposed first and cast to UINT8 last, and a Pad that adds nothing is left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from lipsync_server.networks.constants import ConstantsFile

MOUTH, CROPS = "mouth", "crops"


def ends_in_a_cast(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose output `mouth` comes from a Cast, with the Transpose before it. Other networks stay as they are."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    by_output = {output: node for node in graph.node for output in node.output}
    pad = by_output.get(MOUTH)
    if pad is None or pad.op_type != "Pad":
        return result
    around = next((tensor for tensor in graph.initializer if tensor.name == pad.input[1]), None)
    picture = by_output[pad.input[0]]
    cast = by_output[picture.input[0]]
    if (
        around is None
        or numpy_helper.to_array(around).any()
        or (picture.op_type, cast.op_type) != ("Transpose", "Cast")
    ):
        return result  # a window of the mouth: not the whole network
    graph.node.remove(pad)
    graph.initializer.remove(around)
    picture.input[0], cast.input[0] = cast.input[0], picture.output[0]
    cast.output[0] = MOUTH
    order = list(graph.node)
    order[order.index(cast)], order[order.index(picture)] = picture, cast
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def crops_of(model: onnx.ModelProto) -> TensorProto | None:
    """The constant with an avatar's face crops."""
    return next((tensor for tensor in model.graph.initializer if tensor.name == CROPS), None)


def with_wide_crops(model: onnx.ModelProto, folder: Path, name: str) -> onnx.ModelProto:
    """A copy with its face crops as UINT16, in a file of their own.

    Args:
        model: its crops may be in a file of `folder`.
        folder: where the network will be.
        name: of the new file.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    crops = crops_of(result)
    if crops is None:
        return result
    frames, *shape = crops.dims
    place = {entry.key: entry.value for entry in crops.external_data}
    values: NDArray[np.uint8] = (
        np.memmap(folder / place["location"], np.uint8, "r", int(place.get("offset", 0)), (frames, *shape))
        if place
        else numpy_helper.to_array(crops)
    )
    kinds = {crops.name: (np.dtype(np.uint16), tuple(shape))}
    info = onnx.helper.make_tensor_value_info(crops.name, TensorProto.UINT16, list(crops.dims))
    result.graph.initializer.remove(crops)
    result.graph.input.append(info)
    del result.graph.value_info[:]  # it has the old type of what the crops give
    draft = folder / f"{name}.draft"
    with ConstantsFile(draft, frames, kinds) as file:
        for frame in range(frames):
            file.write(crops.name, frame, values[frame].astype(np.uint16))
    draft.replace(folder / name)
    file.path = folder / name
    return file.within(result)


def levels_of(model: onnx.ModelProto) -> dict[str, list[int]]:
    """What crosses into TensorRT's engine besides the network's inputs: the Cast of the gathered crops, its name with
    its shape for one frame. Empty where the network has no crops.
    """
    crops = crops_of(model)
    if crops is None:
        return {}
    (gather,) = (node for node in model.graph.node if node.op_type == "Gather" and node.input[0] == crops.name)
    (cast,) = (node for node in model.graph.node if node.op_type == "Cast" and node.input[0] == gather.output[0])
    return {cast.output[0]: list(crops.dims[1:])}
