"""`monolithic.proto` as protobuf's descriptors and classes, made when this module is imported.

Generated code would tie the package to the protobuf version that generated it.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["METHODS", "SERVICE", "message"]

FILE = "monolithic.proto"
Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    **{"string": Field.TYPE_STRING, "bytes": Field.TYPE_BYTES, "bool": Field.TYPE_BOOL},
    **{"int32": Field.TYPE_INT32, "int64": Field.TYPE_INT64, "float": Field.TYPE_FLOAT},
}


def _parsed(text: str) -> descriptor_pb2.FileDescriptorProto:
    """The file, which uses no more of the language than this reads: messages of plain fields, one service."""
    text = re.sub(r"//.*", "", text)
    package = re.findall(r"package ([\w.]+);", text)[0]
    found = descriptor_pb2.FileDescriptorProto(name=FILE, package=package, syntax="proto3")
    for name, body in re.findall(r"message (\w+) {(.*?)}", text, re.DOTALL):
        into = found.message_type.add(name=name)
        for repeated, kind, field, number in re.findall(r"(repeated )?(\w+) (\w+) = (\d+);", body):
            label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            added = into.field.add(name=field, number=int(number), label=label)
            if kind in SCALARS:
                added.type = SCALARS[kind]
            else:
                added.type, added.type_name = Field.TYPE_MESSAGE, f".{package}.{kind}"
    for name, body in re.findall(r"service (\w+) {(.*?)}", text, re.DOTALL):
        service = found.service.add(name=name)
        for method, takes, gives in re.findall(r"rpc (\w+)\((\w+)\) returns \((\w+)\);", body):
            service.method.add(name=method, input_type=f".{package}.{takes}", output_type=f".{package}.{gives}")
    return found


DESCRIPTOR = _parsed(files("lipsync_server.gateway").joinpath(FILE).read_text(encoding="utf-8"))
_pool = descriptor_pool.Default()  # where reflection looks too
_pool.AddSerializedFile(DESCRIPTOR.SerializeToString())
_service = _pool.FindServiceByName(f"{DESCRIPTOR.package}.MonolithicService")
SERVICE: str = _service.full_name
METHODS: dict[str, type] = {  # the class of each method's request
    method.name: message_factory.GetMessageClass(method.input_type) for method in _service.methods
}


def message(name: str) -> Any:
    """The class of a message."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{DESCRIPTOR.package}.{name}"))
