"""Static INT8 quantisation (QDQ) of U-Nets and of the audio encoder, calibrated on real speech."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from lipsync_mel import mel, timeline

Example = dict[str, NDArray[np.float32]]  # U-Net: input [1,6,320,320], audio [1,32,16,16]; encoder: mel [n,1,80,16]
LEAST_DB = 38.0  # of mouths in INT8 against FP32
LEVELS = (0.3, 1.0, 3.0)  # one level alone costs 3 dB of accuracy on other voices


def speech_features(
    repository: Path, speech: NDArray[np.float32], encoder: onnx.ModelProto | str
) -> NDArray[np.float32]:
    """Audio features of every frame of a speech: FP32 [frames,32,16,16].

    Args:
        encoder: as served, or the name of a model of the repository.
    """
    if isinstance(encoder, str):
        session = ort.InferenceSession(repository / encoder / "1" / "model.onnx")
    else:
        session = ort.InferenceSession(encoder.SerializeToString())
    windows, inside = _windows(repository, speech)
    inputs = {"mel_windows": windows, "window_mask": inside.astype(np.float32)[:, None]}
    features: NDArray[np.float32] = session.run(["audio_features"], inputs)[0]
    return features


def _windows(repository: Path, speech: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A whole speech's mel windows, and which of them lie in its feature list."""
    bank = mel.load_filterbank()
    starts, inside = timeline.row_windows(0, timeline.frame_total(len(speech)), len(speech))
    return mel.encoder_windows(bank, speech, 0, len(speech), starts, inside), inside


def quantize_encoder(network: onnx.ModelProto, repository: Path, speech: NDArray[np.float32]) -> onnx.ModelProto:
    """The audio encoder in INT8, calibrated on a speech that is also made quieter and louder."""
    windows = np.concatenate([_windows(repository, speech * np.float32(gain))[0] for gain in LEVELS])
    return quantize(network, [{"mel": windows[at : at + 8]} for at in range(0, len(windows), 8)])


def network_inputs(
    crops: NDArray[np.uint8], features: NDArray[np.float32], mask: tuple[int, int, int, int], count: int
) -> Iterator[Example]:
    """`count` examples, evenly spread over the footage and the speech."""
    x, y, width, height = mask
    for crop_at, speech_at in zip(
        np.linspace(0, len(crops) - 1, count).astype(int),
        np.linspace(0, len(features) - 1, count).astype(int),
        strict=True,
    ):
        crop = crops[crop_at].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        masked = crop.copy()
        masked[:, y : y + height, x : x + width] = 0
        yield {"input": np.concatenate([crop, masked])[None], "audio": features[speech_at][None]}


class _Reader(CalibrationDataReader):  # type: ignore[misc] # the package has no types
    def __init__(self, examples: list[Example]) -> None:
        self._examples = iter(examples)

    def get_next(self) -> Example | None:
        return next(self._examples, None)


def quantize(network: onnx.ModelProto, examples: list[Example], in_fp32: Sequence[str] = ()) -> onnx.ModelProto:
    """The network in INT8 (activations UINT8, weights of 7 bits for each channel), calibrated on `examples`.

    Seven bits, because CPUs without VNNI add pairs of products in 16 bits, where eight overflow: 31 dB in place of 40.

    The first and the last convolution stay FP32: they touch the picture itself, and cost little. So do the sum before
    the last and the sigmoid behind it, which INT8 damages most, and those that `in_fp32` names, as `most_damaged` does.
    """
    with tempfile.TemporaryDirectory() as folder:
        ready, done = _prepared(network, Path(folder)), Path(folder) / "int8.onnx"
        graph = onnx.load(ready).graph
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        beside = [
            node.name
            for last in convolutions[-1:]
            for node in graph.node
            if (node.op_type == "Add" and node.output[0] == last.input[0])
            or (node.op_type == "Sigmoid" and node.input[0] == last.output[0])
        ]
        quantize_static(
            ready,
            done,
            _Reader(examples),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=[*(node.name for node in (*convolutions[:1], *convolutions[-1:])), *beside, *in_fp32],
        )
        return onnx.load(done)


def quantize_within(
    network: onnx.ModelProto, examples: list[Example], psnr: Callable[[onnx.ModelProto], float], least: float = LEAST_DB
) -> tuple[onnx.ModelProto, float, int]:
    """The network in INT8 with as few layers in FP32 as keep it close to FP32.

    Args:
        psnr: how close a network is, in dB.
        least: close enough.

    Returns:
        the network, how close it is, and how many of its convolutions had to stay in FP32.
    """
    small = quantize(network, examples)
    found, kept = psnr(small), 0
    if found < least:
        worst = most_damaged(network, small, psnr)
        for part in (16, 8, 4, 2, 1):
            kept = -(-len(worst) // part)
            small = quantize(network, examples, worst[:kept])
            if (found := psnr(small)) >= least:
                break
    return small, found, kept


def most_damaged(
    network: onnx.ModelProto, small: onnx.ModelProto, psnr: Callable[[onnx.ModelProto], float]
) -> list[str]:
    """The convolutions beside the tensors that INT8 damages, the worst first: that without whose rounding the picture
    becomes best.
    """
    with tempfile.TemporaryDirectory() as folder:
        touched = _convolutions(onnx.load(_prepared(network, Path(folder))))
    tensors = {node.input[0] for node in small.graph.node if node.op_type == "QuantizeLinear"}
    better = {tensor: psnr(without_quantisation(small, tensor)) for tensor in sorted(tensors)}
    worst = sorted(better, key=better.__getitem__, reverse=True)
    return list(dict.fromkeys(name for tensor in worst for name, near in touched.items() if tensor in near))


def without_quantisation(model: onnx.ModelProto, only: str | None = None) -> onnx.ModelProto:
    """The network without its QuantizeLinear and DequantizeLinear, or without those of the activation `only`; weights
    keep the values that INT8 left them.

    The quantiser leaves out a Relu where UINT8 with zero point 0 cuts negative values off: there it comes back.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    quantised = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        source, _, zero = quantised[node.input[0]].input if node.input and node.input[0] in quantised else ("", "", "")
        if only and (source != only or node.op_type != "DequantizeLinear"):
            kept.append(node)
        elif node.op_type == "DequantizeLinear" and source:
            if numpy_helper.to_array(constants[zero]).any():
                renamed[node.output[0]] = source
            else:
                kept.append(helper.make_node("Relu", [source], [node.output[0]], name=f"{node.name}_relu"))
        elif node.op_type == "DequantizeLinear":
            graph.initializer.append(numpy_helper.from_array(_dequantised(node, constants), node.output[0]))
        elif node.op_type != "QuantizeLinear":
            kept.append(node)
    for node in kept:
        for index, name in enumerate(node.input):
            while name in renamed:
                name = renamed[name]
            node.input[index] = name
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    rest = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(rest)
    return result


def _dequantised(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> NDArray[np.float32]:
    values, scale, zero = (numpy_helper.to_array(constants[name]).astype(np.float32) for name in node.input)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.ndim:
        shape = [1] * values.ndim
        shape[axis] = len(scale)
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    result: NDArray[np.float32] = ((values - zero) * scale).astype(np.float32)
    return result


def _prepared(network: onnx.ModelProto, folder: Path) -> Path:
    """The file of the network as the quantiser wants it: always with the same names."""
    plain, ready = folder / "plain.onnx", folder / "ready.onnx"
    onnx.save(network, plain)
    quant_pre_process(plain, ready, skip_symbolic_shape=True)
    return ready


def _convolutions(ready: onnx.ModelProto) -> dict[str, set[str]]:
    """Each convolution's name, and the tensors that it reads and writes; an activation that follows counts to it."""
    after = {node.input[0]: node.output[0] for node in ready.graph.node if node.op_type in ("Relu", "Clip")}
    return {
        node.name: {node.input[0], node.output[0], after.get(node.output[0], node.output[0])}
        for node in ready.graph.node
        if node.op_type == "Conv"
    }


def mouth_psnr(*ways: tuple[onnx.ModelProto, list[Example]]) -> float:
    """PSNR in dB between the 8-bit mouths of two networks, each with its own examples of the same frames."""
    first, second = (
        np.concatenate([np.floor(session.run(["output"], example)[0] * 255) for example in examples])
        for session, examples in ((ort.InferenceSession(model.SerializeToString()), them) for model, them in ways)
    )
    return float(10 * np.log10(255**2 / max(np.mean((first - second) ** 2), 1e-9)))
