"""The mask: the part of the crop that is hidden from a U-Net. There are two variants, a few pixels apart."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from lipsync_server.networks.graphs import expand_weights

# x, y, width, height. SyncTalk_2D calls cv2.rectangle(crop, (5, 5, 310, 305), ..), which means the same. Some exports
# were made with these numbers as two corners, (5, 5) and (310, 305), both of them inside.
MASKS = {"reference": (5, 5, 310, 305), "corners": (5, 5, 306, 301)}
CLEAR = 1.3  # times the error with the other mask: the network was trained with this one
FRAMES = 8


def strip_errors(network: onnx.ModelProto, crops: NDArray[np.uint8]) -> dict[str, float]:
    """Mean error where the two masks differ: a network is wrong there if its input shows what training hid from it.

    Args:
        network: `input`, `audio` -> `output`.
        crops: UINT8 [n,320,320,3], BGR.

    Returns:
        the error for each mask's name, in grey levels.
    """
    session = ort.InferenceSession(expand_weights(network).SerializeToString(), providers=["CPUExecutionProvider"])
    chosen = crops[np.unique(np.linspace(0, len(crops) - 1, FRAMES).astype(int))]
    pictures = chosen.transpose(0, 3, 1, 2).astype(np.float32) / 255
    strip = _hidden(MASKS["reference"]) ^ _hidden(MASKS["corners"])
    silence = np.zeros((1, 32, 16, 16), np.float32)
    errors = {}
    for name, mask in MASKS.items():
        masked = pictures * ~_hidden(mask)
        outputs = [
            session.run(["output"], {"input": np.concatenate([p, m])[None], "audio": silence})[0][0]
            for p, m in zip(pictures, masked.astype(np.float32), strict=True)
        ]
        errors[name] = float(np.abs(np.stack(outputs) - pictures)[:, :, strip].mean() * 255)
    return errors


def detect_mask(network: onnx.ModelProto, crops: NDArray[np.uint8]) -> str | None:
    """`reference` or `corners`; None if neither is clearly better, as with an untrained network."""
    errors = strip_errors(network, crops)
    better, worse = sorted(errors, key=lambda name: errors[name])
    return better if errors[worse] > CLEAR * errors[better] else None


def _hidden(mask: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    x, y, width, height = mask
    result = np.zeros((320, 320), bool)
    result[y : y + height, x : x + width] = True
    return result
