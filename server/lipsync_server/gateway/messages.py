"""Messages as bytes: what is read of an answer, and put around it, without parsing its frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message
from tritonclient.grpc.service_pb2 import ModelInferResponse, ModelStreamInferResponse

__all__ = ["as_json", "encoded", "frames_in", "streamed"]

OUTPUTS = ModelInferResponse.DESCRIPTOR.fields_by_name["outputs"].number
INFER_RESPONSE = ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number
BYTES = 2  # the wire type of strings, messages and bytes
FIXED = {1: 8, 5: 4}  # wire types of fixed size


def encoded(message: Message) -> bytes:
    """A message's bytes."""
    data: bytes = message.SerializeToString()
    return data


def as_json(message: Message) -> dict[str, Any]:
    """A message as Triton writes it over HTTP: with the defaults, and 64-bit numbers as numbers."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[field.name] = {str(key): _plain(field, value[key]) for key in sorted(value)}
        elif hasattr(value, "extend"):
            found[field.name] = [_plain(field, one) for one in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _plain(field, value)
    return found


def _plain(field: Any, value: Any) -> Any:
    if isinstance(value, Message):
        return as_json(value)
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return field.enum_type.values_by_number[value].name if field.enum_type is not None else value


def frames_in(answer: bytes) -> int:
    """The number of frames, whole or as patches, in the bytes of a ModelInferResponse; 0 for other answers."""
    frames = 0
    for number, start, stop in _fields(answer):
        if number == OUTPUTS:
            output = ModelInferResponse.InferOutputTensor.FromString(answer[start:stop])
            if output.name in ("JPEG", "PATCH") and output.shape:
                frames = max(frames, int(output.shape[0]))  # the other one is empty
    return frames


def streamed(answer: bytes) -> bytes:
    """The bytes of a ModelStreamInferResponse that holds those of a ModelInferResponse."""
    return _varint(INFER_RESPONSE << 3 | BYTES) + _varint(len(answer)) + answer


def _fields(message: bytes) -> Iterator[tuple[int, int, int]]:
    """Number, start and stop of each string, message or bytes field of a message; other fields are passed over."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        if tag & 7 == BYTES:
            size, at = _read_varint(message, at)
            yield tag >> 3, at, at + size
            at += size
        elif tag & 7 in FIXED:
            at += FIXED[tag & 7]
        else:
            _, at = _read_varint(message, at)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
