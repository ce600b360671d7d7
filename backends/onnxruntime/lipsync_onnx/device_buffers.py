"""Runs a session on a GPU with I/O binding: inputs are copied into device memory that is reused by later calls."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

KEPT = 16  # inputs of different shapes; a batch of 32 frames takes 1 MB


class DeviceBuffers:
    """A session's inputs and outputs on one device.

    Args:
        session: has an execution provider for this device.
        device: `cuda`, or `cpu`, where binding changes nothing.
        number: the GPU's number.
    """

    def __init__(self, session: ort.InferenceSession, device: str, number: int) -> None:
        self._session, self._device, self._number = session, device, number
        self._inputs: OrderedDict[tuple[str, tuple[int, ...], str], ort.OrtValue] = OrderedDict()

    def run(self, wanted: list[str], inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the session, as `InferenceSession.run`. Only one caller at a time."""
        binding = self._session.io_binding()
        for name, values in inputs.items():
            binding.bind_ortvalue_input(name, self._on_device(name, np.ascontiguousarray(values)))
        for name in wanted:
            binding.bind_output(name, self._device, self._number)
        self._session.run_with_iobinding(binding)
        outputs: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return outputs

    def _on_device(self, name: str, values: NDArray[Any]) -> ort.OrtValue:
        key = name, values.shape, values.dtype.str
        kept = self._inputs.pop(key, None)
        if kept is None:
            kept = ort.OrtValue.ortvalue_from_numpy(values, self._device, self._number)
        else:
            kept.update_inplace(values)
        self._inputs[key] = kept
        if len(self._inputs) > KEPT:
            self._inputs.popitem(last=False)
        return kept
