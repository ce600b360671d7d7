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

__all__ = ["ENCODER_FIELDS", "ENSEMBLE_FIELDS", "NETWORK_FIELDS", "fields_beyond"]

TENSORS = r"name|max_batch_size|(input|output)\.(name|data_type|dims|optional)"
ENSEMBLE_FIELDS = rf"{TENSORS}|platform|ensemble_scheduling\.step\.(model_name|model_version|(in|out)put_map\.\w+)"
ENCODER_FIELDS = (
    rf"{TENSORS}|backend|instance_group\.(kind|count|gpus)"
    r"|optimization\.execution_accelerators\.cpu_execution_accelerator\.(name|parameters\.precision)"
    r"|model_warmup\.(name|batch_size|inputs\.\w+\.(data_type|dims|zero_data))"
)
NETWORK_FIELDS = rf"{ENCODER_FIELDS}|parameters\.({'|'.join(FACT_NAMES)})\.string_value"


def fields_beyond(allowed: str, config: Any) -> list[str]:
    """The paths of a ModelConfig's values that the pattern `allowed` does not match."""
    fields = _paths(json_format.MessageToDict(config, preserving_proto_field_name=True))
    return sorted(field for field in fields if not re.fullmatch(allowed, field))


def _paths(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all values in nested mappings and lists: their keys, joined by dots."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, path)
    else:
        yield path
