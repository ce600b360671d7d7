"""Extends the plain networks to the graphs that are served.

    audio_encoder   mel windows, mask -> embedding, and the sliding 16-row block of each frame
    lipsync         audio features, footage position -> uint8 mouth, with the avatar's face crops inside the graph
    lipsync_visual  audio features, the caller's own six channels -> uint8 mouth

What surrounds a network is written in ONNX's own text form and joined to it with `onnx.compose`.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.compose
import onnx.parser
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from lipsync_composite.geometry import INNER

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

# Footage position -> footage frame, the same walk as composite's.
LOOPS = {
    "forward": "frame = Identity(there)",
    "pingpong": """back = Sub(length, there)
  frame = Min(there, back)""",
}
DIGIT = 1024  # of a position
MAX_LENGTH = 2**24 // DIGIT - 1  # of a loop: 16,383 positions, 11 minutes

# `there` is the position modulo the loop's length, digit by digit: OpenVINO divides whole numbers in FP32, which is
# exact below 2**24 only, a week of frames. A wrong `high` or `top` would not matter: the digit below makes up for it.
RESIDENT_FRONT = """
front (float[B,32,16,16] audio_features, int64[B,1] footage_position)
  => (float[B,6,320,320] input, float[B,32,16,16] audio, int64[B,1] avatar_key)
<int64[1] flat = {-1}, int64 length = {%(length)d}, int64 digit = {%(digit)d}, float full = {255},
 int64[1,1] key = {%(key)d}>
{
  audio = Identity(audio_features)
  batch = Shape(footage_position)
  avatar_key = Expand(key, batch)
  position = Reshape(footage_position, flat)
  high = Div(position, digit)
  high_only = Mul(high, digit)
  low = Sub(position, high_only)
  top = Div(high, digit)
  top_only = Mul(top, digit)
  middle = Sub(high, top_only)
  top_rest = Mod(top, length)
  top_raised = Mul(top_rest, digit)
  high_sum = Add(top_raised, middle)
  high_rest = Mod(high_sum, length)
  high_raised = Mul(high_rest, digit)
  sum = Add(high_raised, low)
  there = Mod(sum, length)
  %(loop)s
  crop_bytes = Gather<axis = 0>(crops, frame)
  crop_levels = Cast<to = 1>(crop_bytes)
  crop = Div(crop_levels, full)
  masked = Mul(crop, mask)
  input = Concat<axis = 1>(crop, masked)
}
"""

VISUAL_FRONT = """
front (float[B,32,16,16] audio_features, float[B,6,320,320] visual_frames)
  => (float[B,6,320,320] input, float[B,32,16,16] audio, int64[B,1] avatar_key)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1,1] key = {%(key)d}>
{
  audio = Identity(audio_features)
  input = Identity(visual_frames)
  sizes = Shape(audio_features)
  size = Slice(sizes, zero, one, zero)
  batch = Concat<axis = 0>(size, one)
  avatar_key = Expand(key, batch)
}
"""

MOUTH_BACK = """
back (float[B,3,320,320] output) => (uint8[B,320,320,3] mouth)
<float white = {255}>
{
  levels = Mul(output, white)
  truncated = Cast<to = 2>(levels)
  mouth = Transpose<perm = [0, 2, 3, 1]>(truncated)
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


def _like(network: onnx.ModelProto, text: str) -> onnx.ModelProto:
    """The text form as a model of the network's own versions, so that they can be joined."""
    opset = next(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx"))
    return onnx.parser.parse_model(f'<ir_version: {network.ir_version}, opset_import: ["" : {opset}]>{text}')


def _without_values(network: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what exporters leave behind: intermediate shapes (they may bind the batch) and metadata."""
    result = expand_weights(network)
    del result.graph.value_info[:]
    return result


def _check_interface(model: onnx.ModelProto, what: str, inputs: set[str], outputs: set[str]) -> None:
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
    _check_interface(network, "the audio encoder", {"mel"}, {"features"})
    network = onnx.compose.add_prefix(_without_values(network), "encoder_")
    joined = onnx.compose.merge_models(
        network, _like(network, ENCODER_BACK), io_map=[("encoder_features", "features")], producer_name="lipsync-triton"
    )
    for node in joined.graph.node:
        for index, name in enumerate(node.input):
            if name == "encoder_mel":
                node.input[index] = "mel_windows"
    next(entry for entry in joined.graph.input if entry.name == "encoder_mel").name = "mel_windows"
    onnx.checker.check_model(joined)
    return joined


def _around(network: onnx.ModelProto, front: onnx.ModelProto) -> onnx.ModelProto:
    """front -> U-Net -> uint8 mouth."""
    network = onnx.compose.add_prefix(_without_values(network), "unet_")
    joined = onnx.compose.merge_models(
        front, network, io_map=[("input", "unet_input"), ("audio", "unet_audio")], producer_name="lipsync-triton"
    )
    joined = onnx.compose.merge_models(
        joined, _like(network, MOUTH_BACK), io_map=[("unet_output", "output")], producer_name="lipsync-triton"
    )
    onnx.checker.check_model(joined)
    return joined


def served_unet(
    network: onnx.ModelProto, crops: NDArray[np.uint8], mask: tuple[int, int, int, int], loop: str, key: int
) -> onnx.ModelProto:
    """The U-Net with an avatar resident in it.

    Args:
        network: `input` [N,6,320,320], `audio` [N,32,16,16] -> `output` [N,3,320,320] in 0..1.
        crops: UINT8 [n,320,320,3], the face crop of each footage frame, BGR.
        mask: x, y, width, height of what the network does not see, as cv2.rectangle reads it.
        loop: "forward" or "pingpong".
        key: the avatar's content hash.

    Returns:
        audio_features [B,32,16,16] and footage_position INT64 [B,1] -> mouth UINT8 [B,320,320,3], avatar_key [B,1].

    Raises:
        ValueError: the network has other inputs or outputs, or the footage is too long.
    """
    _check_interface(network, "the U-Net", {"input", "audio"}, {"output"})
    count = len(crops)
    length = count if loop == "forward" else max(1, 2 * count - 2)  # there and back shares both ends
    if length > MAX_LENGTH:
        raise ValueError(f"the footage has {count} frames and loops {loop}: its loop must have at most {MAX_LENGTH}")
    facts = {"length": length, "digit": DIGIT, "key": key, "loop": LOOPS[loop]}
    front = _like(network, RESIDENT_FRONT % facts)
    x, y, width, height = mask
    visible = np.ones((1, 1, INNER, INNER), np.float32)
    visible[:, :, y : y + height, x : x + width] = 0
    planes = np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
    front.graph.initializer.extend([numpy_helper.from_array(planes, "crops"), numpy_helper.from_array(visible, "mask")])
    return _around(network, front)


def served_unet_visual(network: onnx.ModelProto, key: int) -> onnx.ModelProto:
    """The U-Net for callers who bring their own channels: `visual_frames` [B,6,320,320] instead of a position."""
    _check_interface(network, "the U-Net", {"input", "audio"}, {"output"})
    return _around(network, _like(network, VISUAL_FRONT % {"key": key}))
