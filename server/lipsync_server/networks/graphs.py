"""Extends the plain audio encoder to the graph that is served, and what that shares with the U-Net's (unet_graphs.py).

    audio_encoder   mel windows, mask -> embedding, and the sliding 16-row block of each frame

What surrounds a network is written in ONNX's own text form and joined to it with `onnx.compose`.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.compose
import onnx.parser
from onnx import TensorProto, numpy_helper

ENCODER_BACK = """
back (float[R,512] features, float[R,1] window_mask) => (float[R,512] embedding, float[N,32,16,16] audio_features)
<int64 first = {0}, int64 one = {1}, int64 overlap = {15}, int64[1] columns = {1},
 int64[1,16] row = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}, int64[4] block = {-1,32,16,16}>
{
  embedding = Mul(features, window_mask)
  shape = Shape(embedding)
  rows = Gather(shape, first)
  frames = Sub(rows, overlap)
  start = Range(first, frames, one)
  start_column = Unsqueeze(start, columns)
  index = Add(start_column, row)
  window = Gather<axis = 0>(embedding, index)
  audio_features = Reshape(window, block)
}
"""


def expand_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with weights stored as FP16 (each behind a Cast) turned into FP32 weights."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    half = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] in half]
    for node in casts:
        values = numpy_helper.to_array(half[node.input[0]]).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)
    for name in {node.input[0] for node in casts}:
        graph.initializer.remove(half[name])
    return result


def like(network: onnx.ModelProto, text: str) -> onnx.ModelProto:
    """The text form as a model of the network's own versions, so that they can be joined."""
    opset = next(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx"))
    return onnx.parser.parse_model(f'<ir_version: {network.ir_version}, opset_import: ["" : {opset}]>{text}')


def without_values(network: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what exporters leave behind: intermediate shapes (they may bind the batch) and metadata."""
    result = expand_weights(network)
    del result.graph.value_info[:]
    return result


def check_interface(model: onnx.ModelProto, what: str, inputs: set[str], outputs: set[str]) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    found = {entry.name for entry in model.graph.input} - constants, {entry.name for entry in model.graph.output}
    if found != (inputs, outputs):
        raise ValueError(
            f"{what} has inputs {sorted(found[0])} and outputs {sorted(found[1])}; "
            f"it must have {sorted(inputs)} and {sorted(outputs)}"
        )


def served_encoder(network: onnx.ModelProto) -> onnx.ModelProto:
    """The encoder `mel` [N,1,80,16] -> `features` [N,512], extended.

    The result maps mel_windows [R,1,80,16] and window_mask [R,1] to embedding [R,512], the rows of the feature list,
    and audio_features [R-15,32,16,16], each frame's 16 rows in C order.

    Raises:
        ValueError: the network has other inputs or outputs.
    """
    check_interface(network, "the audio encoder", {"mel"}, {"features"})
    network = onnx.compose.add_prefix(without_values(network), "encoder_")
    joined = onnx.compose.merge_models(
        network, like(network, ENCODER_BACK), io_map=[("encoder_features", "features")], producer_name="lipsync-triton"
    )
    for node in joined.graph.node:
        for index, name in enumerate(node.input):
            if name == "encoder_mel":
                node.input[index] = "mel_windows"
    next(entry for entry in joined.graph.input if entry.name == "encoder_mel").name = "mel_windows"
    onnx.checker.check_model(joined)
    return joined
