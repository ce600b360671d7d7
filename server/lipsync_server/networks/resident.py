"""Computes once what an avatar's footage decides alone, and the rest only where the mask is.

Half of a U-Net sees only the footage: its results come round with the footage frames. `split` cuts a network into that
half and the rest; `windowed` makes the rest compute no more of its large stages than the mask needs. Both know a graph
by its operators alone, so they work on the plain network and on its INT8 form, and what they leave gives the whole
network's picture inside the mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from lipsync_composite.geometry import INNER
from lipsync_server.networks.window import Span, Window

SMALLEST = INNER // 2  # stages with smaller pictures stay whole: there is little to leave out
WORTH = 0.85  # of a stage's picture: a larger part is not worth the cutting


Windows = dict[int, Window]  # of each stage that does not stay whole, by the height of its whole picture


@dataclass(frozen=True)
class Split:
    """A network in two.

    Attributes:
        visual: `input` [N,6,320,320] -> the tensors `kept`.
        mouth: `kept`, `input`, `audio` -> `output`.
        kept: the names of the tensors between both, and the heights of their pictures.
    """

    visual: onnx.ModelProto
    mouth: onnx.ModelProto
    kept: dict[str, int]


def split(network: onnx.ModelProto) -> Split:
    """Cut a U-Net (`input`, `audio` -> `output`) between what depends on `input` alone and the rest.

    Tensors as large as the picture are not kept, but computed again: they are two thirds of all bytes, and the stage
    that makes them is cheap. An INT8 network's are kept as the bytes that it quantises them to.
    """
    inferred = _inferred(network)
    shapes, kinds = _shapes(inferred), _kinds(inferred)
    nodes = list(network.graph.node)
    hears, sees = _reached(nodes, "audio"), _reached(nodes, "input")
    seen = sees - hears
    made = {name: node for node in nodes for name in node.output}
    again: list[str] = []
    kept: dict[str, int] = {}
    wanted = [name for node in nodes if hears & set(node.output) for name in node.input]
    while wanted:
        name = wanted.pop()
        if name not in seen or name == "input" or name in kept or name in again:
            continue
        if made[name].op_type in ("DequantizeLinear", "SpaceToDepth") or shapes[name][2] >= INNER:
            again.append(name)
            wanted += made[name].input
        else:
            kept[name] = shapes[name][2]
    between = [helper.make_tensor_value_info(name, kinds[name], ["N", *shapes[name][1:]]) for name in kept]
    inputs = {info.name: info for info in network.graph.input}
    return Split(
        visual=_part(network, seen, [inputs["input"]], between),
        mouth=_part(network, hears.union(again), [*between, *inputs.values()], network.graph.output),
        kept=kept,
    )


@dataclass(frozen=True)
class Windowed:
    """A network's rest that computes no more than what its picture needs inside the mask.

    Attributes:
        network: as `Split.mouth`, with smaller `input`, `output` and kept tensors.
        window: what `input` and `output` are of the whole picture.
        parts: what each kept tensor is of the whole one.
    """

    network: onnx.ModelProto
    window: Window
    parts: dict[str, Window]


def windowed(halves: Split, mask: Window) -> Windowed:
    """Make the rest of a network compute no more than what its picture needs inside the mask.

    Args:
        halves: as `split` leaves them.
        mask: where `output` must be right.
    """
    shapes = shapes_of(halves.mouth)
    needed = _needed(halves.mouth, shapes, mask)
    windows = _windows(halves.mouth, shapes, needed)
    result = onnx.ModelProto()
    result.CopyFrom(halves.mouth)
    graph = result.graph
    del graph.value_info[:]
    parts = {name: needed[name] for name in halves.kept}
    nodes: list[onnx.NodeProto] = []
    for name, size in halves.kept.items():
        if parts[name] != (room := windows.get(size, Window.whole(size))):
            nodes.append(_padded(graph, name, parts[name], room))
    for node in graph.node:
        target = windows.get(shapes[node.output[0]][2]) if node.op_type == "Resize" else None
        if target:
            nodes += _enlarged(graph, node, shapes, target)
        elif nodes and node.op_type == "QuantizeLinear" and _cuts(nodes[-1], node.input[0]):
            nodes += _swapped(nodes.pop(), node)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    for info in (*graph.input, *graph.output):
        if part := {"input": windows[INNER], "output": windows[INNER], **parts}.get(info.name):
            dims = info.type.tensor_type.shape.dim
            dims[2].dim_value, dims[3].dim_value = part.shape
    onnx.checker.check_model(result)
    return Windowed(result, windows[INNER], parts)


def shapes_of(network: onnx.ModelProto) -> dict[str, list[int]]:
    """The shape of each tensor for a batch of one."""
    return _shapes(_inferred(network))


def _inferred(network: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for a batch of one, so that every shape can be inferred."""
    result = onnx.ModelProto()
    result.CopyFrom(network)
    del result.graph.value_info[:]
    for info in (*result.graph.input, *result.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = 1
    return shape_inference.infer_shapes(result)


def _shapes(inferred: onnx.ModelProto) -> dict[str, list[int]]:
    graph = inferred.graph
    return {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in (*graph.value_info, *graph.input, *graph.output)
    }


def _kinds(inferred: onnx.ModelProto) -> dict[str, int]:
    return {info.name: info.type.tensor_type.elem_type for info in inferred.graph.value_info}


def _reached(nodes: list[onnx.NodeProto], start: str) -> set[str]:
    """The tensors that depend on one; the nodes are in the order of execution."""
    reached = {start}
    for node in nodes:
        if reached & set(node.input):
            reached |= set(node.output)
    return reached


def _part(
    network: onnx.ModelProto,
    wanted: set[str],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """The model of the nodes that make the tensors `wanted`, and of those that make their constants."""
    inputs, outputs = list(inputs), list(outputs)
    given = {info.name for info in inputs}
    nodes: list[onnx.NodeProto] = []
    used = {info.name for info in outputs}
    needed = set(wanted)
    for node in reversed(network.graph.node):
        if (needed | used) & set(node.output) - given:
            nodes.append(node)
            used |= set(node.input)
    constants = [tensor for tensor in network.graph.initializer if tensor.name in used]
    graph = helper.make_graph(nodes[::-1], network.graph.name, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=network.opset_import, producer_name="lipsync-triton")
    model.ir_version = network.ir_version
    onnx.checker.check_model(model)
    return model


def _needed(mouth: onnx.ModelProto, shapes: dict[str, list[int]], mask: Window) -> dict[str, Window]:
    """What is needed of each picture, so that `output` is right inside the mask."""
    needed = {"output": mask}
    for node in reversed(mouth.graph.node):
        here = needed.get(node.output[0])
        for name in node.input if here else ():
            if here and len(shapes.get(name, ())) == 4:
                part = _needed_of(node, here, shapes[name][2], shapes[node.output[0]][2])
                needed[name] = part.joined(needed.get(name))
    return needed


def _windows(mouth: onnx.ModelProto, shapes: dict[str, list[int]], needed: dict[str, Window]) -> Windows:
    """What each large stage must compute: all of it as widely as its widest part."""
    windows: Windows = {}
    for name, part in needed.items():
        if shapes[name][2] >= SMALLEST:
            windows[shapes[name][2]] = part.joined(windows.get(shapes[name][2]))
    _align(mouth, shapes, windows)
    kept = {size: window for size, window in windows.items() if size == INNER or window.area < WORTH * size**2}
    if SMALLEST not in kept and any(node.op_type == "DepthToSpace" for node in mouth.graph.node):
        kept[INNER] = Window.whole(INNER)  # a head unfolds it from a stage that stays whole
    return kept


def _needed_of(node: onnx.NodeProto, part: Window, size: int, made: int) -> Window:
    """What a node needs of an input of the height `size` to give a part of an output of the height `made`.

    A convolution sees zeros beyond a window's edge, which is wrong: so it asks for a wider part.
    """
    if node.op_type == "Conv" and size == made:
        kernel = next(attribute.ints[0] for attribute in node.attribute if attribute.name == "kernel_shape")
        return part.grown(kernel // 2, size)
    if node.op_type == "Resize":
        step = (size - 1) / (made - 1)
        spans = (Span(int(span.begin * step), min(size, int(np.ceil((span.end - 1) * step)) + 1)) for span in part)
        return Window(*spans)
    if node.op_type == "DepthToSpace":
        return part.halved()
    if node.op_type == "SpaceToDepth":
        return part.doubled()
    return part if size == made else Window.whole(size)


def _align(mouth: onnx.ModelProto, shapes: dict[str, list[int]], windows: Windows) -> None:
    """Windows on both sides of a folding node must match; one that is enlarged must begin at the corner, from where the
    positions of bilinear enlargement are counted.
    """
    for node in mouth.graph.node:
        if node.op_type not in ("DepthToSpace", "SpaceToDepth", "Resize"):
            continue
        source, target = shapes[node.input[0]][2], shapes[node.output[0]][2]
        if node.op_type == "Resize" and source in windows:
            rows, columns = windows[source]
            windows[source] = Window(Span(0, rows.end), Span(0, columns.end))
        elif node.op_type != "Resize" and min(source, target) in windows:
            small, large = min(source, target), max(source, target)
            windows[small] = windows[small].joined(windows[large].halved())
            windows[large] = windows[small].doubled()


def _enlarged(
    graph: onnx.GraphProto, node: onnx.NodeProto, shapes: dict[str, list[int]], target: Window
) -> list[onnx.NodeProto]:
    """Bilinear enlargement of a part of a picture, as the whole picture's with aligned corners, cut to the target."""
    name, scale = node.output[0], (shapes[node.output[0]][2] - 1) / (shapes[node.input[0]][2] - 1)
    constants = {
        "scales": np.array([1, 1, scale, scale], np.float32),
        "begin": np.array([span.begin for span in target]),
        "end": np.array([span.end for span in target]),
        "axes": np.array([2, 3]),
    }
    graph.initializer.extend(numpy_helper.from_array(value, f"{name}_{key}") for key, value in constants.items())
    bounds = [f"{name}_{key}" for key in ("begin", "end", "axes")]
    how = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
    return [
        helper.make_node("Resize", [node.input[0], "", f"{name}_scales"], [f"{name}_wide"], name=node.name, **how),
        helper.make_node("Slice", [f"{name}_wide", *bounds], [name], name=f"{node.name}_window"),
    ]


def _padded(graph: onnx.GraphProto, name: str, part: Window, room: Window) -> onnx.NodeProto:
    """A kept tensor in its place within its stage; nobody looks at what is around it. Those who read it are told."""
    before = [have.begin - wanted.begin for have, wanted in zip(part, room, strict=True)]
    after = [wanted.end - have.end for have, wanted in zip(part, room, strict=True)]
    pads = np.array([0, 0, *before, 0, 0, *after])
    graph.initializer.append(numpy_helper.from_array(pads, f"{name}_pads"))
    for node in graph.node:
        for index, source in enumerate(node.input):
            if source == name:
                node.input[index] = f"{name}_padded"
    return helper.make_node("Pad", [name, f"{name}_pads"], [f"{name}_padded"], name=f"{name}_pad")


def _cuts(node: onnx.NodeProto, name: str) -> bool:
    return bool(node.op_type == "Slice" and node.output[0] == name)


def _swapped(cut: onnx.NodeProto, quantise: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A Slice and the QuantizeLinear behind it, the other way round: a quarter of the bytes are copied."""
    wide = f"{quantise.output[0]}_wide"
    names = [cut.input[0], *quantise.input[1:]]
    return [
        helper.make_node("QuantizeLinear", names, [wide], name=quantise.name),
        helper.make_node("Slice", [wide, *cut.input[1:]], [quantise.output[0]], name=cut.name),
    ]
