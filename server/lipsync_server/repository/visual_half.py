"""What an avatar's network computes from the footage alone, computed at packing; the rest is what is served."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from rich.progress import track

from lipsync_client.console import notes
from lipsync_composite.geometry import INNER
from lipsync_server.networks.constants import ConstantsFile
from lipsync_server.networks.resident import Split, Windows, split, windowed
from lipsync_server.networks.unet_graphs import Resident, served_resident, served_unet
from lipsync_server.networks.window import Span, Window

Run = Callable[[NDArray[np.float32]], list[NDArray[Any]]]
Kinds = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
CROPS = "crops"


def write_networks(
    folder: Path, network: onnx.ModelProto, crops: NDArray[np.uint8], avatar: Resident, blend: str, constants: str
) -> None:
    """Write an avatar's network into a version folder of its model.

    `model.onnx` is what a CPU runs: of each footage frame it knows what the frame alone decides. `whole.onnx` is the
    whole network, from which `lipsync gpu-models` makes the GPU's: there the whole is fast, and TensorRT would store
    these constants at four times their size.

    Args:
        network: the U-Net, plain or in INT8.
        crops: UINT8 [n,320,320,3], the face crop of each footage frame, BGR.
        avatar: whose they are.
        blend: as composite pastes. "reference" shows all of the picture, "soft" no more than the mask.
        constants: name of the file with the constants of both.

    Raises:
        ValueError: the network has other inputs or outputs than a U-Net, or the footage is too long.
    """
    whole = served_unet(network, avatar)
    parts = split(network)
    mask = Window.whole(INNER) if blend == "reference" else _window(avatar.mask)
    mouth, windows = windowed(parts.mouth, parts.kept, mask)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(_threads()) as pool:
        run = _opened(parts, Path(scratch), _threads())
        values = partial(_kept, run, avatar.visible(), parts, windows)
        first = values(crops[0])
        kinds = {name: (value.dtype, value.shape) for name, value in zip(parts.kept, first, strict=True)}
        model = served_resident(mouth, kinds, windows[INNER], avatar)
        named: Kinds = {CROPS: (crops.dtype, (3, INNER, INNER))}
        named |= {f"kept{number}": kind for number, kind in enumerate(kinds.values())}
        with ConstantsFile(folder / constants, len(crops), named) as file:
            rows = zip(crops, pool.map(values, crops), strict=True)
            shown = track(rows, total=len(crops), description="computing what stays", transient=True, console=notes)
            for frame, (crop, kept) in enumerate(shown):
                file.write(CROPS, frame, crop.transpose(2, 0, 1))
                for number, value in enumerate(kept):
                    file.write(f"kept{number}", frame, value)
    onnx.save(file.within(model), folder / "model.onnx")
    onnx.save(file.within(whole), folder / "whole.onnx")


def _window(mask: tuple[int, int, int, int]) -> Window:
    x, y, width, height = mask
    return Window(Span(y, y + height), Span(x, x + width))


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def _kept(
    run: Run, visible: NDArray[np.float32], parts: Split, windows: Windows, crop: NDArray[np.uint8]
) -> list[NDArray[Any]]:
    """What is kept of one footage frame: bytes as they are; FP32 as FP16, which moves no picture by a level."""
    plane = crop.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    made = run(np.concatenate([plane, plane * visible], 1))
    kept = []
    for size, values in zip(parts.kept.values(), made, strict=True):
        part = windows[size].of(values[0]) if size in windows else values[0]
        kept.append(part.astype(np.float16) if part.dtype == np.float32 else part.copy())
    return kept


def _opened(parts: Split, scratch: Path, callers: int) -> Run:
    """The visual half, run by the engine that will run the rest: two engines round INT8 differently."""
    names = list(parts.kept)
    if not names:
        return lambda _: []
    if importlib.util.find_spec("openvino"):
        from lipsync_onnx.openvino_network import open_openvino

        path = scratch / "visual.onnx"
        onnx.save(parts.visual, path)
        network = open_openvino(path, {"input": [1, 6, INNER, INNER]}, callers, 1, "f32")
        return lambda picture: network(names, {"input": picture})
    session = ort.InferenceSession(parts.visual.SerializeToString())
    return lambda picture: list(session.run(names, {"input": picture}))
