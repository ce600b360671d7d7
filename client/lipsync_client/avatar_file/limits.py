"""Limits of a packed avatar: what its file may unpack to, and what its configs may make a server reserve.

They are far above what the packer writes, and far below what harms a machine.
"""

from __future__ import annotations

import math
import re
import shutil
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig

from lipsync_client.avatar_file.fields import values_in
from lipsync_client.avatar_file.names import PackedError

__all__ = ["check_entries", "excess"]

ENTRIES = 100  # a packed avatar has about 20, folders included
TEXT_BYTES = 64 << 10  # of a config or of avatar.json
MODEL_BYTES = 2 << 30  # as protobuf has it
UNPACKED_BYTES = 16 << 30
RATIO, RATIO_FROM = 100, 64 << 20  # unpacked to packed, from this unpacked size on: footage hardly compresses

NUMBERS = {  # fields of a config, and the least and the most that is allowed
    r"max_batch_size": (0, 32),
    r"(input|output)\.dims": (-1, 4096),
    r"instance_group\.count": (0, 8),
    r"instance_group\.gpus": (0, 63),
    r"model_warmup\.batch_size": (0, 32),
    r"model_warmup\.inputs\.\w+\.dims": (1, 4096),
}
LENGTHS = {"instance_group": 8, "model_warmup": 8, "input": 16, "output": 16}  # entries of a repeated field
DIMENSIONS = 6
TENSOR_VALUES = 1 << 20  # of one item of a batch
GPUS = 64  # of one instance group
FACT = re.compile(r"[A-Za-z0-9_.-]{0,64}")  # a parameter's value


def check_entries(file: Path, entries: list[zipfile.ZipInfo], folder: Path) -> None:
    """Check what the file's directory states, before anything is unpacked. Raises PackedError.

    Args:
        file: the packed avatar.
        entries: its directory. Python's zipfile never unpacks more of an entry than is stated there.
        folder: on the file system where it will be unpacked.
    """
    if len(entries) > ENTRIES:
        raise PackedError(f"{file} holds {len(entries)} entries; a packed avatar has at most {ENTRIES}.")
    names = [entry.filename for entry in entries]
    for entry in entries:
        if trouble := _trouble_of(entry, names):
            raise PackedError(f"{file}: {entry.filename[:80]!r} {trouble}.")
    packed, unpacked = file.stat().st_size, sum(entry.file_size for entry in entries)
    if unpacked > UNPACKED_BYTES or (unpacked > RATIO_FROM and unpacked > RATIO * packed):
        raise PackedError(
            f"{file} would unpack from {packed} to {unpacked} bytes; at most {UNPACKED_BYTES} bytes and {RATIO} times"
            " its size are allowed."
        )
    if unpacked > (free := shutil.disk_usage(folder).free):
        raise PackedError(f"{file} unpacks to {unpacked} bytes, but only {free} are free in {folder}.")


def _trouble_of(entry: zipfile.ZipInfo, names: list[str]) -> str:
    """What is wrong with an entry of the directory, or ""."""
    if names.count(entry.filename) > 1:
        return "is there more than once"
    if entry.flag_bits & 1:
        return "is encrypted"
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed by another method than DEFLATE"
    limit = {".pbtxt": TEXT_BYTES, ".json": TEXT_BYTES, ".onnx": MODEL_BYTES}.get(Path(entry.filename).suffix)
    if limit is not None and entry.file_size > limit:
        return f"has {entry.file_size} bytes; at most {limit} are allowed"
    return ""


def excess(config: ModelConfig) -> str:
    """The first value of a config that is beyond its limits, with the limit; "" if all is well."""
    for path, value in values_in(config):
        for pattern, (least, most) in NUMBERS.items():
            if re.fullmatch(pattern, path) and not least <= int(value) <= most:
                return f"{path} is {value}; allowed is {least} to {most}"
        if path.startswith("parameters.") and not FACT.fullmatch(value):
            return f"{path} is longer than 64 characters, or not made of letters, digits and _ . -"
    for name, most in LENGTHS.items():
        if (count := len(getattr(config, name))) > most:
            return f"{name} has {count} entries; at most {most} are allowed"
    if any(len(group.gpus) > GPUS for group in config.instance_group):
        return f"instance_group.gpus has more than {GPUS} entries"
    if trouble := _too_large([*config.input, *config.output]):
        return trouble
    for warmup in config.model_warmup:
        if len(warmup.inputs) > LENGTHS["input"]:
            return f"model_warmup has {len(warmup.inputs)} inputs; at most {LENGTHS['input']} are allowed"
        if trouble := _too_large(warmup.inputs.values()):
            return f"model_warmup: {trouble}"
    return ""


def _too_large(tensors: Iterable[Any]) -> str:
    """What is wrong with the first tensor that has too many dimensions or values; "" if there is none."""
    for tensor in tensors:
        if len(tensor.dims) > DIMENSIONS:
            return f"a tensor has {len(tensor.dims)} dimensions; at most {DIMENSIONS} are allowed"
        if math.prod(map(abs, tensor.dims)) > TENSOR_VALUES:  # -1: any size, which a request decides
            return f"the dims {list(tensor.dims)} are too large; at most {TENSOR_VALUES} values are allowed"
    return ""
