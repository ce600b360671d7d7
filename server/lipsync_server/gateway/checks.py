"""Checks of a request before Triton sees it: names, types, shapes against bytes, and nothing that is not for strangers.

The values of the tensors are checked by the stages (`lipsync_mel.speech_request`); sentences that Triton has are
Triton's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc.service_pb2 import ModelInferRequest

from lipsync_mel import timeline
from lipsync_server.gateway.contract import ITEM_SIZES, Contract, Tensor
from lipsync_server.gateway.refusal import Refused, invalid

__all__ = ["check", "check_name", "check_names", "check_tensor", "not_taken", "parsed"]

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
VERSION = re.compile(r"\d{0,18}")
MAX_ID = 256  # characters; it stands in every message about the request
OF_REQUEST = {  # parameters of a request that mean something here, and how they are sent
    "timeout": ("int64_param", "uint64_param"),  # microseconds
    "priority": ("int64_param", "uint64_param"),
    "triton_enable_empty_final_response": ("bool_param",),
}
CONTENTS = {  # the typed fields of a tensor's contents, and which types travel in them
    "bool_contents": ("BOOL",),
    "int_contents": ("INT8", "INT16", "INT32"),
    "int64_contents": ("INT64",),
    "uint_contents": ("UINT8", "UINT16", "UINT32"),
    "uint64_contents": ("UINT64",),
    "fp32_contents": ("FP32",),
    "fp64_contents": ("FP64",),
    "bytes_contents": ("BYTES",),
}


def parsed(data: bytes) -> ModelInferRequest:
    """A request as it was sent. Raises Refused."""
    try:
        return ModelInferRequest.FromString(data)
    except DecodeError:
        sentence = "the request is no ModelInferRequest: its bytes cannot be parsed, or they are compressed"
        raise invalid(sentence, "unparsable") from None


def check_name(model: str, version: str = "") -> None:
    """Raises Refused for what no model is called."""
    if not MODEL_NAME.fullmatch(model):
        raise invalid(f"the model's name is {_shown(model)}: it must be letters, digits and _ . -, 128 at most", "name")
    if not VERSION.fullmatch(version):
        raise invalid(f"the model's version is {_shown(version)}: it must be a number, or empty for the latest", "name")


def check(request: ModelInferRequest, contract: Contract) -> None:
    """Refuse a request that Triton must not see.

    Raises:
        Refused: INVALID_ARGUMENT with a sentence that names the field, its value and what is allowed.
    """
    if len(request.id) > MAX_ID:
        raise invalid(f"the request's id has {len(request.id)} characters: at most {MAX_ID} are allowed", "id")
    _check_parameters(request.parameters)
    check_names("input", (one.name for one in request.inputs), contract.inputs, contract.model)
    check_names("output", (one.name for one in request.outputs), contract.outputs, contract.model)
    for output in request.outputs:
        _check_no_parameters(f"output '{output.name}'", output.parameters)
    raw: Sequence[bytes] = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise invalid(
            f"raw_input_contents has {len(raw)} entries: it must have {len(request.inputs)}, one for each input",
            "contents",
        )
    for position, tensor in enumerate(request.inputs):
        _check_no_parameters(f"input '{tensor.name}'", tensor.parameters)
        elements = check_tensor(tensor.name, tensor.datatype, list(tensor.shape), contract)
        _check_contents(tensor, elements, raw[position] if raw else None)


def check_tensor(name: str, dtype: str, shape: Sequence[int], contract: Contract) -> int:
    """The number of elements of an input whose type and shape its model takes. Raises Refused."""
    rule = contract.inputs[name]
    if dtype != rule.dtype:
        raise invalid(
            f"inference input '{name}' data-type is {_shown(dtype)}, but model '{contract.model}' expects"
            f" '{rule.dtype}'",
            "data type",
        )
    if len(shape) != len(rule.dims) or any(
        given < 0 or wanted not in (-1, given) for given, wanted in zip(shape, rule.dims, strict=True)
    ):
        raise invalid(
            f"unexpected shape for input '{name}' for model '{contract.model}'. Expected {_listed(rule.dims)}, "
            f"got {_listed(shape)}",
            "shape",
        )
    _check_size(name, rule, shape)
    return math.prod(shape)


def _check_size(name: str, rule: Tensor, shape: Sequence[int]) -> None:
    for given, wanted in zip(shape, rule.dims, strict=True):
        if wanted == -1 and given > rule.longest:
            if rule.longest == timeline.MAX_SAMPLES:
                sentence = f"{name} has {given} samples: at most {rule.longest} (30 minutes) are allowed in a request"
            else:
                sentence = f"{name} has {given} frames: it must have at most {rule.longest}"
            raise invalid(sentence, "size")


def check_names(kind: str, given: Iterable[str], known: Mapping[str, Any], model: str) -> None:
    """Each name is one of the model's, and is there once. `kind`: "input" or "output". Raises Refused."""
    seen: set[str] = set()
    for name in given:
        if name not in known:
            raise invalid(
                f"unexpected inference {kind} {_shown(name)} for model '{model}': it has {', '.join(known)}", kind
            )
        if name in seen:
            raise invalid(f"the {kind} '{name}' is given twice", kind)
        seen.add(name)


def _check_contents(tensor: Any, elements: int, raw: bytes | None) -> None:
    """Exactly as much data as the shape says, in one place."""
    name, dtype = tensor.name, tensor.datatype
    filled = {field: len(getattr(tensor.contents, field)) for field in CONTENTS if tensor.HasField("contents")}
    filled = {field: count for field, count in filled.items() if count}
    if raw is not None:
        if filled:
            raise invalid(f"'{name}' has its data twice: in contents and in raw_input_contents", "contents")
        if dtype not in ITEM_SIZES:
            raise invalid(f"'{name}' is {dtype}, which the gateway does not take", "data type")
        size = elements * ITEM_SIZES[dtype]
        if len(raw) != size:
            raise invalid(
                f"unexpected total byte size {len(raw)} for input '{name}', expecting {size}: shape "
                f"{_listed(tensor.shape)} of {dtype}",
                "byte count",
            )
        return
    for field, count in filled.items():
        if dtype not in CONTENTS[field]:
            raise invalid(f"'{name}' is {dtype}, but its contents are in {field}", "contents")
        if count != elements:
            raise invalid(
                f"'{name}' has {count} values in {field}: its shape {_listed(tensor.shape)} needs {elements}",
                "byte count",
            )
    if elements and not filled:
        raise invalid(f"'{name}' has no data: its shape {_listed(tensor.shape)} needs {elements} values", "byte count")


def _check_parameters(parameters: Any) -> None:
    for name, value in parameters.items():
        if name not in OF_REQUEST:
            raise not_taken("the request", name)
        kind = value.WhichOneof("parameter_choice")
        if kind not in OF_REQUEST[name] or getattr(value, kind) < 0:
            raise invalid(f"the parameter '{name}' has a value that it cannot have", "parameter")


def _check_no_parameters(place: str, parameters: Any) -> None:
    for name in parameters:
        raise not_taken(place, name)


def not_taken(place: str, name: str) -> Refused:
    """The refusal of a parameter."""
    if name.startswith("shared_memory"):
        return invalid(f"{place} names shared memory: send the data in the request itself", "shared memory")
    if name == "classification":
        return invalid(f"{place} asks for classification, which no model here has", "classification")
    return invalid(f"{place} has the parameter {_shown(name)}: it is not taken", "parameter")


def _listed(shape: Iterable[int]) -> str:
    """As Triton writes a shape; only so much of a long one."""
    sizes = list(shape)
    return f"[{','.join(map(str, sizes[:8]))}{',..' if len(sizes) > 8 else ''}]"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 64 else text[:64] + "..")
