"""KServe v2 over HTTP: its JSON with the binary extension, as requests and answers of the gRPC protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse
from tritonclient.utils import triton_to_np_dtype

from lipsync_server.gateway import bounded_json, checks
from lipsync_server.gateway.contract import ITEM_SIZES, Contract
from lipsync_server.gateway.refusal import invalid

__all__ = ["HEADER_LENGTH", "Body", "as_http", "as_request"]

HEADER_LENGTH = "inference-header-content-length"
MAX_RANK = 8
OF_REQUEST = {"binary_data_output", "timeout", "priority"}
KINDS: dict[str, set[type]] = {"BOOL": {bool}, "FP32": {int, float}, "FP64": {int, float}}  # others: int


class Body:
    """What a request's body says.

    Attributes:
        request: the same for gRPC. It has no values that its model does not take; `checks.check` looks at the rest.
        binary: names of the outputs that are wanted as binary data; None: all of them.
    """

    def __init__(self, model: str, version: str, contract: Contract, body: bytes, json_size: int) -> None:
        """Raises Refused."""
        self._contract = contract
        self._binary_data, self._at = memoryview(body)[json_size:], 0
        fields = _mapping("the request", bounded_json.parse(body[:json_size]))
        parameters = _mapping("parameters", fields.get("parameters", {}))
        self.request = ModelInferRequest(model_name=model, model_version=version, id=_text("id", fields.get("id", "")))
        self._set_parameters(parameters)
        tensors = _list("inputs", fields.get("inputs", []))
        if len(tensors) > len(contract.inputs):
            raise invalid(f"there are {len(tensors)} inputs: '{model}' has {len(contract.inputs)}", "input")
        for tensor in tensors:
            self._add_input(_mapping("an input", tensor))
        if self._at != len(self._binary_data):
            left = len(self._binary_data) - self._at
            raise invalid(
                f"the body has {left} bytes after those that the inputs' binary_data_size state", "byte count"
            )
        all_binary = parameters.get("binary_data_output") is True
        self.binary: set[str] | None = None if all_binary else set()
        for output in _list("outputs", fields.get("outputs", [])):
            self._add_output(_mapping("an output", output), all_binary)

    def _set_parameters(self, parameters: Mapping[str, Any]) -> None:
        for name, value in parameters.items():
            if name not in OF_REQUEST:
                raise checks.not_taken("the request", name)
            if name != "binary_data_output":
                if type(value) is not int or not 0 <= value < 2**63:
                    raise invalid(f"the parameter '{name}' has a value that it cannot have", "parameter")
                self.request.parameters[name].int64_param = value

    def _add_input(self, tensor: Mapping[str, Any]) -> None:
        name, dtype = _text("name", tensor.get("name")), _text("datatype", tensor.get("datatype"))
        shape = _shape(name, tensor.get("shape"))
        checks.check_names("input", [name], self._contract.inputs, self._contract.model)
        elements = checks.check_tensor(name, dtype, shape, self._contract)
        parameters = dict(_mapping("parameters", tensor.get("parameters", {})))
        size = parameters.pop("binary_data_size", None)
        for parameter in parameters:
            raise checks.not_taken(f"input '{name}'", parameter)
        if (size is None) == ("data" not in tensor):
            raise invalid(
                f"'{name}' must have its data once: in data, or behind the JSON by binary_data_size", "contents"
            )
        data = _as_bytes(name, dtype, tensor["data"], elements) if size is None else self._take(name, size)
        self.request.inputs.add(name=name, datatype=dtype, shape=shape)
        self.request.raw_input_contents.append(data)

    def _take(self, name: str, size: Any) -> bytes:
        left = len(self._binary_data) - self._at
        if type(size) is not int or not 0 <= size <= left:
            raise invalid(
                f"'{name}' states binary_data_size {size!r:.40}: the body has {left} bytes for it", "byte count"
            )
        data = bytes(self._binary_data[self._at : self._at + size])
        self._at += size
        return data

    def _add_output(self, output: Mapping[str, Any], all_binary: bool) -> None:
        name = _text("name", output.get("name"))
        parameters = dict(_mapping("parameters", output.get("parameters", {})))
        binary = parameters.pop("binary_data", all_binary)
        for parameter in parameters:
            raise checks.not_taken(f"output '{name}'", parameter)
        if type(binary) is not bool:
            raise invalid(f"output '{name}' has binary_data {binary!r:.40}: it must be true or false", "parameter")
        self.request.outputs.add(name=name)
        if self.binary is None and not binary:
            self.binary = set(self._contract.outputs)
        if self.binary is not None:
            self.binary = self.binary | {name} if binary else self.binary - {name}

    def check_outputs(self) -> None:
        """Refuse bytes in JSON, which has no way to write them."""
        wanted = [one.name for one in self.request.outputs] or list(self._contract.outputs)
        for name in wanted:
            if self._contract.outputs.get(name) == "BYTES" and self.binary is not None and name not in self.binary:
                raise invalid(f"{name} is bytes, which JSON cannot hold: ask for it with binary_data true", "output")


def as_request(model: str, version: str, contract: Contract, body: bytes, json_size: int) -> Body:
    """A request's body, read and checked. Raises Refused."""
    read = Body(model, version, contract, body, json_size)
    read.check_outputs()
    return read


def as_http(answer: bytes, binary: set[str] | None) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON part where binary data follows it.

    Args:
        answer: the bytes of a ModelInferResponse.
        binary: names of the outputs that are wanted as binary data; None: all of them.
    """
    parsed = ModelInferResponse.FromString(answer)
    outputs, tail = [], []
    for output, raw in zip(parsed.outputs, parsed.raw_output_contents, strict=True):
        described: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if binary is None or output.name in binary:
            described["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            values: NDArray[Any] = np.frombuffer(raw, triton_to_np_dtype(output.datatype))
            described["data"] = values.tolist()
        outputs.append(described)
    fields: dict[str, Any] = {"model_name": parsed.model_name, "model_version": parsed.model_version}
    if parsed.id:
        fields["id"] = parsed.id
    header = json.dumps({**fields, "outputs": outputs}).encode()
    return b"".join([header, *tail]), len(header) if tail else None


def _as_bytes(name: str, dtype: str, data: Any, elements: int) -> bytes:
    """JSON values as a tensor's bytes; nested lists are one flat list in Triton too."""
    values = _flat(name, data)
    if len(values) != elements:
        raise invalid(f"'{name}' has {len(values)} values: its shape needs {elements}", "byte count")
    if not {type(value) for value in values} <= KINDS.get(dtype, {int}):
        raise invalid(f"'{name}' has values in data that are no {dtype}", "contents")
    if dtype not in ITEM_SIZES or dtype == "BF16":
        raise invalid(f"'{name}' is {dtype}, which the gateway does not take as JSON", "data type")
    kind = np.dtype(triton_to_np_dtype(dtype))
    if kind.kind in "iu" and values and not np.iinfo(kind).min <= min(values) <= max(values) <= np.iinfo(kind).max:
        raise invalid(f"'{name}' has values in data that do not fit into {dtype}", "contents")
    try:
        with np.errstate(over="ignore"):  # a float that does not fit is infinite, which the stages refuse
            return np.array(values, kind).tobytes()
    except OverflowError:
        raise invalid(f"'{name}' has values in data that do not fit into {dtype}", "contents") from None


def _flat(name: str, data: Any) -> list[Any]:
    flat = _list("data", data)
    while flat and isinstance(flat[0], list):
        if not all(isinstance(part, list) for part in flat):
            raise invalid(f"'{name}' has numbers beside lists in data", "contents")
        flat = [value for part in flat for value in part]
    return flat


def _shape(name: str, shape: Any) -> list[int]:
    sizes = _list("shape", shape)
    if len(sizes) > MAX_RANK or not all(type(size) is int and 0 <= size < 2**63 for size in sizes):
        raise invalid(f"the shape of '{name:.64}' must be up to {MAX_RANK} whole numbers from 0 to 2^63-1", "shape")
    return sizes


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    return _of_type(name, value, dict, "an object")  # type: ignore[no-any-return]


def _list(name: str, value: Any) -> list[Any]:
    return _of_type(name, value, list, "an array")  # type: ignore[no-any-return]


def _text(name: str, value: Any) -> str:
    return _of_type(name, value, str, "a text")  # type: ignore[no-any-return]


def _of_type(name: str, value: Any, kind: type, description: str) -> Any:
    if not isinstance(value, kind):
        raise invalid(f"{name} must be {description} in the request's JSON", "unparsable")
    return value
