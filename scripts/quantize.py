"""Static INT8 quantisation (QDQ) of U-Nets and of the audio encoder, calibrated on real speech."""

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

Example = dict[str, NDArray[np.float32]]  # U-Net: input [1,6,320,320], audio [1,32,16,16]; encoder: mel [n,1,80,16]
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
    return session.run(["audio_features"], inputs)[0]


def _windows(repository: Path, speech: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A whole speech's mel windows, and which of them lie in its feature list."""
    bank = mel.load_filterbank(repository / "mel_preprocess" / "1" / "filterbank.npy")
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
            nodes_to_exclude=[*convolutions[:1], *convolutions[-1:]],
        )
        return onnx.load(done)


def mouth_psnr(*ways: tuple[onnx.ModelProto, list[Example]]) -> float:
    """PSNR in dB between the 8-bit mouths of two networks, each with its own examples of the same frames."""
    first, second = (
        np.concatenate([np.floor(session.run(["output"], example)[0] * 255) for example in examples])
        for session, examples in ((ort.InferenceSession(model.SerializeToString()), them) for model, them in ways)
    )
    return float(10 * np.log10(255**2 / max(np.mean((first - second) ** 2), 1e-9)))
