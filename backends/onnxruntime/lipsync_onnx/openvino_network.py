"""Runs an ONNX model with the `openvino` wheel, where onnxruntime has no OpenVINO execution provider of its own.

On CPUs with VNNI it runs INT8 networks about twice as fast as ONNX Runtime; on CPUs with BF16 instructions it computes
FP32 networks in BF16, about twice as fast as in FP32.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

INT32_MAX = 2**31 - 1  # the CPU plugin computes INT64 tensors in 32 bits, and saturates without an error
Shapes = Mapping[str, Sequence[int]]
Requests = SimpleQueue[openvino.InferRequest]


def computes_bf16() -> bool:
    """Whether this CPU has instructions for BF16; without them it would only be emulated."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_openvino(
    path: Path, shapes: Shapes, callers: int, threads: int, precision: str
) -> Callable[[list[str], dict[str, NDArray[Any]]], list[NDArray[Any]]]:
    """Load a model for exactly these input shapes: a network of fixed shape is a third faster than a dynamic one.

    Args:
        path: the ONNX file.
        shapes: the shape of every input; -1 stays dynamic.
        callers: how many threads may call `run` at once; further ones wait.
        threads: cores for each caller.
        precision: "f32" or "bf16", for the layers that are not quantised.

    Returns:
        `run(names of outputs, inputs)`, as `InferenceSession.run`. An INT64 value beyond 32 bits raises ValueError.
    """
    # The first call builds a table. Two threads that make it at the same time may deadlock, one with the lock of the
    # table and the other with the interpreter's: seen in two of twenty starts.
    openvino.Type.f32.to_dtype()
    settings: dict[str, Any] = {
        "NUM_STREAMS": callers,
        "INFERENCE_NUM_THREADS": callers * threads,
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,  # the stages share the cores
    }
    return _Network(path, shapes, settings, callers).run


def _give_back_memory() -> None:
    """Of what compiling took, some 15 MB would stay with the process, free and unused."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class _Network:
    """A compiled model with an inference request for each caller; compiled anew after a failure.

    A shape that fails half-way leaves the stream that ran it with the wrong shapes inside: from then on it fails for
    the shape that it ran last, which is right for whoever comes next. Another inference request is no help, because
    the state is the stream's.
    """

    def __init__(self, path: Path, shapes: Shapes, settings: dict[str, Any], callers: int) -> None:
        self._path, self._shapes, self._settings, self._callers = path, shapes, settings, callers
        self._renewing = threading.Lock()
        self._idle = self._compiled()

    def run(self, wanted: list[str], inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """As `InferenceSession.run`."""
        for name, values in inputs.items():
            if values.dtype == np.int64 and ((values > INT32_MAX) | (values < -INT32_MAX)).any():
                raise ValueError(f"{name} is {values.ravel()[0]}: OpenVINO computes whole numbers in 32 bits")
        idle, request = self._take()
        try:
            results = request.infer(inputs, share_inputs=True)
            return [results[name] for name in wanted]
        except Exception:
            self._renew(idle)
            raise
        finally:
            idle.put(request)

    def _take(self) -> tuple[Requests, openvino.InferRequest]:
        """An idle request of the newest compiled model, and where it must be put back."""
        while True:
            idle = self._idle
            request = idle.get()
            if idle is self._idle:
                return idle, request
            idle.put(request)  # the next of those who waited with us

    def _renew(self, failed: Requests) -> None:
        with self._renewing:
            if self._idle is failed:  # else another caller's failure has done it
                self._idle = self._compiled()

    def _compiled(self) -> Requests:
        model = openvino.Core().read_model(self._path)  # not kept: it holds the weights once more
        model.reshape({name: list(shape) for name, shape in self._shapes.items()})
        compiled = openvino.compile_model(model, "CPU", self._settings)
        del model
        _give_back_memory()
        idle: Requests = SimpleQueue()
        for _ in range(self._callers):
            idle.put(compiled.create_infer_request())
        return idle
