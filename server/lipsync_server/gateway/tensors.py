"""Tensors of requests and answers, for the ports that do not speak KServe's gRPC."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, triton_to_np_dtype

__all__ = ["outputs_of", "request_of"]


def request_of(model: str, **inputs: NDArray[Any]) -> ModelInferRequest:
    """A request with these inputs, of numeric types."""
    request = ModelInferRequest(model_name=model)
    for name, value in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(value.dtype), shape=value.shape)
        request.raw_input_contents.append(value.tobytes())
    return request


def outputs_of(answer: bytes) -> dict[str, NDArray[Any]]:
    """The outputs of a ModelInferResponse as arrays, by name; BYTES as arrays of `bytes` objects."""
    parsed = ModelInferResponse.FromString(answer)
    found = {}
    for output, raw in zip(parsed.outputs, parsed.raw_output_contents, strict=True):
        if output.datatype == "BYTES":
            values = deserialize_bytes_tensor(raw)
        else:
            values = np.frombuffer(raw, triton_to_np_dtype(output.datatype))
        found[output.name] = values.reshape(tuple(output.shape))
    return found
