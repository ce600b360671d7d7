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
from lipsync_server.networks.graphs import check_interface
from lipsync_server.networks.resident import Split, Windowed, split, windowed
from lipsync_server.networks.unet_graphs import Resident, served_resident, served_unet
from lipsync_server.networks.window import Span, Window

Run = Callable[[NDArray[np.float32]], list[NDArray[Any]]]


def write_networks(
    folder: Path,
    network: onnx.ModelProto,
    crops: NDArray[np.uint8],
    avatar: Resident,
    blend: str,
    constants: str,
    *,
    openvino: bool,
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
        openvino: the rest will run on OpenVINO, not on ONNX Runtime: two engines round INT8 differently.

    Raises:
        ValueError: the network has other inputs or outputs than a U-Net, or the footage is too long.
    """
    whole = served_unet(network, avatar)
    halves, mouth = served_half(network, avatar.mask, blend)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(_threads()) as pool:
        run = _opened(halves, Path(scratch), _threads(), openvino)
        values = partial(_values, run, avatar.visible(), mouth)
        kinds = {name: (value.dtype, value.shape) for name, value in values(crops[0]).items()}
        kept = {name: kinds[f"kept{number}"] for number, name in enumerate(halves.kept)}
        model = served_resident(mouth, kept, avatar)
        with ConstantsFile(folder / constants, len(crops), kinds) as file:
            made = pool.map(values, crops)
            text = "computing what the footage decides"
            shown = track(made, total=len(crops), description=text, transient=True, console=notes)
            try:
                for frame, of_frame in enumerate(shown):
                    for name, value in of_frame.items():
                        file.write(name, frame, value)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # a full disk: nobody wants the other frames
    onnx.save(file.within(model), folder / "model.onnx")
    onnx.save(file.within(whole), folder / "whole.onnx")


def served_half(network: onnx.ModelProto, mask: tuple[int, int, int, int], blend: str) -> tuple[Split, Windowed]:
    """A network in two, and the half that is served, cut to what is seen of it.

    Args:
        network, blend: as for `write_networks`.
        mask: x, y, width, height.

    Raises:
        ValueError: the network has other inputs or outputs than a U-Net.
    """
    check_interface(network, "the U-Net", {"input", "audio"}, {"output"})
    halves = split(network)
    return halves, windowed(halves, Window.whole(INNER) if blend == "reference" else _window(mask))


def _window(mask: tuple[int, int, int, int]) -> Window:
    x, y, width, height = mask
    return Window(Span(y, y + height), Span(x, x + width))


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def _values(
    run: Run, visible: NDArray[np.float32], mouth: Windowed, crop: NDArray[np.uint8]
) -> dict[str, NDArray[Any]]:
    """What the networks know of one footage frame: the crop, its window, and what is kept, bytes as they are and FP32
    as FP16, which moves no picture by more than a level.
    """
    plane = crop.transpose(2, 0, 1)
    levels = plane[None].astype(np.float32) / np.float32(255)
    made = run(np.concatenate([levels, levels * visible], 1))
    values = {"crops": plane, "views": mouth.window.of(plane)}
    for number, (part, whole) in enumerate(zip(mouth.parts.values(), made, strict=True)):
        value = part.of(whole[0])
        values[f"kept{number}"] = value.astype(np.float16) if value.dtype == np.float32 else value.copy()
    return values


def _opened(halves: Split, scratch: Path, callers: int, openvino: bool) -> Run:
    """The visual half, run by the engine that will run the rest, where that is installed."""
    names = list(halves.kept)
    if not names:
        return lambda _: []
    if openvino and importlib.util.find_spec("openvino"):
        from lipsync_onnx.openvino_network import open_openvino

        path = scratch / "visual.onnx"
        onnx.save(halves.visual, path)
        network = open_openvino(path, {"input": [1, 6, INNER, INNER]}, callers, 1, "f32")
        return lambda picture: network(names, {"input": picture})
    session = ort.InferenceSession(halves.visual.SerializeToString())
    return lambda picture: list(session.run(names, {"input": picture}))
