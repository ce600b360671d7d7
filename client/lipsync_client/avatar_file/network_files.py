"""The files that a packed avatar's networks name: ONNX lets a network take its weights from any path.

The messages are read as protobuf's wire format, without the package `onnx`, and without a copy of the weights.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["external_trouble"]

CONSTANTS = re.compile(r"[0-9a-f]{16}\.crops")  # as the packer names them
DEPTH = 64  # of messages in each other
# The fields of onnx.proto that lead to tensors: message -> field -> message.
INTO = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {1: "key", 2: "value"},
}
BYTES = 2  # wire type of messages and strings
FIXED = {1: 8, 5: 4}  # wire types of numbers of fixed size

Span = tuple[int, int]  # where a message begins and ends


def external_trouble(network: Path) -> str:
    """What is wrong with the files that an ONNX file names, beside which they must lie; "" if nothing is."""
    with network.open("rb") as file:
        if not network.stat().st_size:
            return "is empty"
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                for place in _external_data(data, "Model", (0, len(data))):
                    if trouble := _trouble(network.parent, place):
                        return trouble
            except (ValueError, IndexError):
                return "is not an ONNX network"
    return ""


def _trouble(folder: Path, place: dict[str, str]) -> str:
    name = place.get("location", "")
    if not CONSTANTS.fullmatch(name):
        return f"takes weights from {name[:80]!r}, which does not belong to a packed avatar"
    if not (folder / name).is_file():
        return f"takes weights from {name}, which is missing"
    offset, length = (place.get(key, "0") for key in ("offset", "length"))
    size = (folder / name).stat().st_size
    if not all(re.fullmatch(r"[0-9]{1,18}", number) for number in (offset, length)):
        return f"takes weights from {name} at {offset[:20]!r}, {length[:20]!r}, which are no numbers"
    if int(offset) + int(length) > size:
        return f"takes weights from {name} up to byte {int(offset) + int(length)}, but it has {size}"
    return ""


def _external_data(data: mmap.mmap, message: str, span: Span, depth: int = 0) -> Iterator[dict[str, str]]:
    """The external data of each tensor, as key and value. Raises ValueError, IndexError: it is no such message."""
    if depth > DEPTH:
        raise ValueError("nested too deeply")
    entries: dict[str, str] = {}
    for number, inner in _fields(data, span):
        kind = INTO[message].get(number)
        if kind == "Entry":
            entry = {INTO[kind].get(field, ""): data[slice(*text)].decode() for field, text in _fields(data, inner)}
            if (key := entry.get("key", "")) in entries:  # readers may differ about which one holds
                raise ValueError("a key twice")
            entries[key] = entry.get("value", "")
        elif kind:
            yield from _external_data(data, kind, inner, depth + 1)
    if entries:
        yield entries


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span]]:
    """Number and place of each message, string or bytes field of a message; the others are passed over."""
    at, end = span
    while at < end:
        tag, at = _varint(data, at, end)
        if tag & 7 == BYTES:
            size, at = _varint(data, at, end)
            if at + size > end:
                raise ValueError("a field ends behind its message")
            yield tag >> 3, (at, at + size)
            at += size
        elif tag & 7 in FIXED:
            at += FIXED[tag & 7]
        elif tag & 7 == 0:
            _, at = _varint(data, at, end)
        else:
            raise ValueError("an unknown wire type")


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError("a number does not end")
