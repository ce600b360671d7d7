"""Static INT8 quantisation of an avatar's U-Net (QDQ), calibrated on the avatar's own crops and real speech."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
import mel
import timeline

Example = dict[str, NDArray[np.float32]]  # input [1,6,320,320], audio [1,32,16,16]


def speech_features(repository: Path, speech: NDArray[np.float32]) -> NDArray[np.float32]:
    """Audio features of every frame of a speech, by the repository's own encoder: FP32 [frames,32,16,16]."""
    bank = mel.load_filterbank(repository / "mel_preprocess" / "1" / "filterbank.npy")
    session = ort.InferenceSession(repository / "audio_encoder" / "1" / "model.onnx")
    starts, inside = timeline.row_windows(0, timeline.frame_total(len(speech)), len(speech))
    windows = mel.encoder_windows(bank, speech, 0, len(speech), starts, inside)
    inputs = {"mel_windows": windows, "window_mask": inside.astype(np.float32)[:, None]}
    return session.run(["audio_features"], inputs)[0]


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


class _Reader(CalibrationDataReader):
    def __init__(self, examples: list[Example]) -> None:
        self._examples = iter(examples)

    def get_next(self) -> Example | None:
        return next(self._examples, None)


def quantize(network: onnx.ModelProto, examples: list[Example]) -> onnx.ModelProto:
    """The network in INT8 (activations UINT8, weights INT8 for each channel), calibrated on `examples`.

    The first and the last convolution stay FP32: they touch the picture itself, and cost little.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, ready, done = (Path(folder) / name for name in ("plain.onnx", "ready.onnx", "int8.onnx"))
        onnx.save(network, plain)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        convolutions = [node.name for node in onnx.load(ready).graph.node if node.op_type == "Conv"]
        quantize_static(
            ready,
            done,
            _Reader(examples),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=[convolutions[0], convolutions[-1]],
        )
        return onnx.load(done)


def mouth_psnr(reference: onnx.ModelProto, other: onnx.ModelProto, examples: list[Example]) -> float:
    """PSNR in dB of the two networks' 8-bit outputs over some examples."""
    sessions = [ort.InferenceSession(model.SerializeToString()) for model in (reference, other)]
    squares = []
    for example in examples:
        a, b = (np.floor(session.run(["output"], example)[0] * 255) for session in sessions)
        squares.append(np.mean((a - b) ** 2))
    return float(10 * np.log10(255**2 / max(np.mean(squares), 1e-9)))
