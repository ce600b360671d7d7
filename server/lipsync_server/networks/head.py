"""A small head in place of a U-Net's last stage, which takes half of its time: the preset turbo.

    half [N,c,160,160], crop [N,3,320,320] in 0..1 -> output [N,3,320,320] in 0..1

`half` is what the U-Net enlarges last, `crop` the three channels of its input that the mask does not hide.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.compose
from onnx import helper, numpy_helper

from lipsync_server.networks.resident import shapes_of

HALF = 160  # height and width of `half`


def with_head(network: onnx.ModelProto, head: onnx.ModelProto) -> onnx.ModelProto:
    """A U-Net (`input`, `audio` -> `output`), plain or in INT8, with a head in place of its last enlargement and of all
    that follows.

    Raises:
        ValueError: the head does not fit the network.
    """
    half, channels = last_stage(network)
    inputs = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in head.graph.input}
    outputs = [info.name for info in head.graph.output]
    if inputs.keys() != {"half", "crop"} or outputs != ["output"] or inputs["half"][1:] != [channels, HALF, HALF]:
        raise ValueError(
            f"the head has inputs {inputs} and outputs {outputs}: it must map half [N,{channels},{HALF},{HALF}] and "
            "crop [N,3,320,320] to output"
        )
    result = onnx.ModelProto()
    result.CopyFrom(network)
    graph = result.graph
    used = {half}
    nodes = []
    for node in reversed(graph.node):
        if used & set(node.output):
            nodes.append(node)
            used |= set(node.input)
    head = onnx.compose.add_prefix(head, "head_", rename_inputs=False, rename_outputs=False)
    del graph.node[:]
    graph.node.extend(nodes[::-1])
    graph.node.append(
        helper.make_node("Slice", ["input", "crop_first", "crop_last", "crop_axis"], ["crop"], name="crop")
    )
    for node in head.graph.node:
        for index, name in enumerate(node.input):
            if name == "half":
                node.input[index] = half
        graph.node.append(node)
    bounds = {"crop_first": 0, "crop_last": 3, "crop_axis": 1}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(np.array([at]), name) for name, at in bounds.items())
    graph.initializer.extend(head.graph.initializer)
    onnx.checker.check_model(result)
    return result


def last_stage(network: onnx.ModelProto) -> tuple[str, int]:
    """The tensor that a U-Net enlarges last, and its number of channels.

    Raises:
        ValueError: the network enlarges nothing, or something else than 160 x 160.
    """
    nodes = [node for node in network.graph.node if node.op_type == "Resize"]
    shape = shapes_of(network).get(nodes[-1].input[0], []) if nodes else []
    if shape[2:] != [HALF, HALF]:
        raise ValueError(f"the network has no last stage of {HALF} x {HALF}: a head cannot take its place")
    return nodes[-1].input[0], shape[1]
