"""What a head learns from: an avatar's U-Net, cut before its last stage in INT8, and whole in FP32."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.shape_inference
import onnx.utils
from numpy.typing import NDArray

from lipsync_composite.geometry import INNER
from lipsync_onnx.openvino_network import open_openvino
from lipsync_server.networks.head import last_stage
from lipsync_server.repository.source import AvatarSource
from lipsync_studio.distillation.head import REACH

Mask = tuple[int, int, int, int]
Window = tuple[slice, slice]  # rows, columns
Run = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
INPUTS = {"input": [1, 6, INNER, INNER], "audio": [1, 32, 16, 16]}


class Shown(NamedTuple):
    """Where a head must be right, and what it needs for that.

    Attributes:
        window: of the picture: even pixels, because the head works on folded pictures.
        half: the same of `half`.
        inner: what viewers see of the picture, relative to the window.
    """

    window: Window
    half: Window
    inner: Window


def shown(source: AvatarSource) -> Shown:
    """The mask, which is all that is pasted into the footage; the whole picture where the blend is "reference"."""
    x, y, width, height = source.mask if source.blend == "soft" else (0, 0, INNER, INNER)
    sides = []
    for first, size in ((y, height), (x, width)):
        last = first + size
        begin, end = max(0, (first - REACH) // 2 * 2), min(INNER, -(-(last + REACH) // 2) * 2)
        sides.append((slice(begin, end), slice(begin // 2, end // 2), slice(first - begin, last - begin)))
    (rows, half_rows, inner_rows), (columns, half_columns, inner_columns) = sides
    return Shown((rows, columns), (half_rows, half_columns), (inner_rows, inner_columns))


class Teacher:
    """Runs a U-Net in both forms for one frame at a time.

    Args:
        network: the plain U-Net.
        small: the same in INT8, as it is served.
        mask: x, y, width, height of what the network does not see.

    Attributes:
        channels: of `half`.

    Raises:
        ValueError: the network has no last stage that a head can take the place of.
    """

    def __init__(self, network: onnx.ModelProto, small: onnx.ModelProto, mask: Mask) -> None:
        self._mask = mask
        name, self.channels = last_stage(small)
        inferred = onnx.shape_inference.infer_shapes(small)
        trunk = onnx.utils.Extractor(inferred).extract_model(list(INPUTS), [name])
        self._trunk, self._whole = _opened(trunk, name), _opened(network, "output")

    def half(self, crop: NDArray[np.uint8], audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the head is given: [c,160,160] for a crop, BGR [320,320,3], and audio features [32,16,16]."""
        return self._trunk(self._picture(crop), audio)

    def output(self, crop: NDArray[np.uint8], audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """What it must draw: [3,320,320] in 0..1, by the network in FP32."""
        return self._whole(self._picture(crop), audio)

    def _picture(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        plane = crop.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        x, y, width, height = self._mask
        masked = plane.copy()
        masked[:, y : y + height, x : x + width] = 0
        return np.concatenate([plane, masked])


def _opened(network: onnx.ModelProto, output: str) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(network, path)
        run = open_openvino(path, INPUTS, 1, len(os.sched_getaffinity(0)), "f32")

    def call(picture: NDArray[np.float32], audio: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = run([output], {"input": picture[None], "audio": audio[None]})[0]
        return np.array(result[0])  # a copy: the next call writes there

    return call
