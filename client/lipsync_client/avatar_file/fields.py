"""The fields that the config of a packed avatar's model may have: those that the packer's templates write.

Other fields could name files (labels, warm-up data, TensorRT's cache) or run code (the parameter EXECUTION_ENV_PATH of
Triton's Python backend).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format

from lipsync_client.avatar_facts import FACT_NAMES

__all__ = ["ENCODER_FIELDS", "ENSEMBLE_FIELDS", "NETWORK_FIELDS", "fields_beyond", "values_in"]

TENSORS = r"name|max_batch_size|(input|output)\.(name|data_type|dims|optional)"
ENSEMBLE_FIELDS = rf"{TENSORS}|platform|ensemble_scheduling\.step\.(model_name|model_version|(in|out)put_map\.\w+)"
ENCODER_FIELDS = (
    rf"{TENSORS}|backend|instance_group\.(kind|count|gpus)"
    r"|optimization\.execution_accelerators\.cpu_execution_accelerator\.(name|parameters\.precision)"
    r"|model_warmup\.(name|batch_size|inputs\.\w+\.(data_type|dims|zero_data))"
    r"|parameters\.(min|max)_rows\.string_value"
)
NETWORK_FIELDS = rf"{ENCODER_FIELDS}|parameters\.({'|'.join(FACT_NAMES)})\.string_value"


def fields_beyond(allowed: str, config: Any) -> list[str]:
    """The paths of a ModelConfig's values that the pattern `allowed` does not match."""
    return sorted(path for path, _ in values_in(config) if not re.fullmatch(allowed, path))


def values_in(config: Any) -> Iterator[tuple[str, Any]]:
    """The values of a ModelConfig, each with its path. Numbers of 64 bits are strings, as in JSON."""
    return _values(json_format.MessageToDict(config, preserving_proto_field_name=True))


def _values(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All values in nested mappings and lists. A value's path is its keys, joined by dots."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _values(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner, path)
    else:
        yield path, value
