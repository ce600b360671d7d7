"""The large constants of an avatar's network: what it knows of each footage frame, in a file beside the graph.

They are written as they are made, frame by frame, and mapped by whoever runs the network: no process holds them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Kind = tuple[np.dtype[Any], tuple[int, ...]]  # of a constant for one footage frame: its type and its shape
PAGE = 4096  # each constant begins at a page, so that it can be mapped


def with_constants(model: onnx.ModelProto, **constants: NDArray[Any]) -> onnx.ModelProto:
    """The model with some of its inputs as constants inside it."""
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    return _replaced(model, tensors)


class ConstantsFile:
    """Writes constants into one file; a context manager.

    Args:
        path: the file.
        frames: how many footage frames each constant describes.
        kinds: type and shape of each for one frame, by its name.
    """

    def __init__(self, path: Path, frames: int, kinds: Mapping[str, Kind]) -> None:
        self.path, self.frames, self.kinds = path, frames, kinds
        self._at: dict[str, int] = {}
        end = 0
        for name in kinds:
            self._at[name] = end
            end += -(-frames * self._size(name) // PAGE) * PAGE
        self._file = path.open("wb")
        self._file.truncate(end)

    def __enter__(self) -> ConstantsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def _size(self, name: str) -> int:
        kind, shape = self.kinds[name]
        return int(np.prod(shape)) * kind.itemsize

    def write(self, name: str, frame: int, values: NDArray[Any]) -> None:
        """Put one frame's values of a constant in place."""
        kind, shape = self.kinds[name]
        if values.dtype != kind or values.shape != shape:
            raise ValueError(f"{name} is {values.dtype} {values.shape}: it must be {kind} {shape}")
        self._file.seek(self._at[name] + frame * self._size(name))
        self._file.write(np.ascontiguousarray(values).data)

    def within(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The model with those of its inputs that are constants of this file, to be saved in the file's folder."""
        given = {info.name for info in model.graph.input}
        tensors = []
        for name, (kind, shape) in self.kinds.items():
            if name not in given:
                continue
            tensor = TensorProto(name=name, data_location=TensorProto.EXTERNAL)
            tensor.data_type = helper.np_dtype_to_tensor_dtype(kind)
            tensor.dims.extend((self.frames, *shape))
            place = {"location": self.path.name, "offset": self._at[name], "length": self.frames * self._size(name)}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
        return _replaced(model, tensors)


def _replaced(model: onnx.ModelProto, tensors: list[TensorProto]) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = {tensor.name for tensor in tensors}
    inputs = [info for info in result.graph.input if info.name not in names]
    del result.graph.input[:]
    result.graph.input.extend(inputs)
    result.graph.initializer.extend(tensors)
    return result
