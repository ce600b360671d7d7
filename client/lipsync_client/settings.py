"""Settings files: YAML, checked by pydantic, each mistake told in one sentence.

A field's `description` says what is allowed, in the words of the sentence. A field with `exclude` is no key of a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from lipsync_client.errors import LipsyncError

__all__ = ["CHECKED", "SettingsError", "checked", "read_yaml"]

CHECKED = ConfigDict(extra="forbid", strict=False)  # for pydantic dataclasses of settings

T = TypeVar("T")


class SettingsError(LipsyncError, ValueError):
    """A setting is not allowed; the text names the key, the value and what is allowed."""


def read_yaml(path: Path) -> Any:
    """A settings file's plain values; an empty file is an empty mapping. Raises SettingsError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return {} if values is None else values


def checked(kind: type[T], values: Any, section: str = "") -> T:
    """Settings from plain values.

    Args:
        kind: a pydantic dataclass.
        values: a mapping, as YAML gives it.
        section: where they stand in the file; begins the keys in sentences.

    Raises:
        SettingsError: a key is unknown, or a value is not allowed.
    """
    if not isinstance(values, Mapping):
        allowed = ", ".join(_names(kind))
        raise SettingsError(f"{section or 'the file'} holds {values!r}; allowed is a mapping with {allowed}.")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise SettingsError(_sentence(kind, values, section, error.errors()[0])) from None


def _sentence(kind: type, values: Any, section: str, found: Any) -> str:
    """What pydantic found first, in our words."""
    keys: list[str] = []
    for key in found["loc"]:
        if not isinstance(key, str) or key not in _names(kind):
            break
        keys.append(key)
        values, allowed = values[key], _field(kind, key).description or ""
        inner = _field(kind, key).annotation
        if not hasattr(inner, "__pydantic_fields__") or not isinstance(values, Mapping):
            name = ".".join([*([section] if section else []), *keys])
            if hasattr(inner, "__pydantic_fields__"):
                return f"{name} holds {values!r}; allowed is a mapping with {', '.join(_names(inner))}."
            return f"{name} is {values!r}; allowed is {allowed}."
        kind = inner  # type: ignore[assignment]
    if found["type"] == "value_error":  # a check of ours that concerns several settings
        return str(found["ctx"]["error"])
    unknown = [*([section] if section else []), *keys, str(found["loc"][-1])]
    return f"unknown key {'.'.join(unknown)}: allowed are {', '.join(_names(kind))}."


def _names(kind: Any) -> list[str]:
    """The keys that a file may hold; fields with `exclude` are for code alone."""
    return [item.name for item in fields(kind) if not _field(kind, item.name).exclude]


def _field(kind: Any, name: str) -> FieldInfo:
    found: FieldInfo = kind.__pydantic_fields__[name]
    return found
