"""Which avatars a server keeps: the section `registry` of `server.yaml`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lipsync_client.avatar_file.packed import VALID_ID
from lipsync_client.errors import LipsyncError
from lipsync_client.wire import SHIPPED_AVATAR, ensemble_of

__all__ = ["RegistrySettings", "SettingsError"]

EVICTION = ("lfu", "lru")
PLACEMENT = ("round_robin", "least_loaded")


class SettingsError(LipsyncError, ValueError):
    """A setting is not allowed; the text names the key, the value and what is allowed."""


@dataclass(frozen=True)
class RegistrySettings:
    """Settings of a registry; `server.yaml` explains each.

    Attributes:
        keep: avatars that are never unloaded: those that the server itself loads at its start. Not in the section.
    """

    preload: tuple[str, ...] = ()
    max_models: int = 40
    max_memory_gb: float | None = None
    eviction: str = "lfu"
    idle_timeout: float | None = None
    gpus: tuple[int, ...] = ()
    placement: str = "round_robin"
    keep: tuple[str, ...] = (SHIPPED_AVATAR,)

    def __post_init__(self) -> None:
        _check("preload", self.preload, "a list of avatars' ids", _all(_is_id))
        _check("max_models", self.max_models, "a whole number from 1 to 1000", _number(int, 1, 1000))
        _check("max_memory_gb", self.max_memory_gb, "a number above 0, or null for no limit", _or_none(0.001, 1e5))
        _check("eviction", self.eviction, " or ".join(EVICTION), EVICTION.__contains__)
        _check("idle_timeout", self.idle_timeout, "seconds from 1 up, or null for never", _or_none(1, 1e9))
        _check("gpus", self.gpus, "a list of the server's GPU numbers, such as [0, 1]", _all(_number(int, 0, 63)))
        _check("placement", self.placement, " or ".join(PLACEMENT), PLACEMENT.__contains__)
        if len(needed := {*self.preload, *self.keep}) > self.max_models:
            raise SettingsError(
                f"registry.max_models is {self.max_models}, but {', '.join(sorted(needed))} are to be loaded at start."
            )

    @classmethod
    def from_dict(cls, values: Any, keep: tuple[str, ...] = (SHIPPED_AVATAR,)) -> RegistrySettings:
        """From the section's plain YAML values. Raises SettingsError."""
        allowed = [item.name for item in dataclasses.fields(cls) if item.name != "keep"]
        if not isinstance(values, dict):
            raise SettingsError(f"registry is {values!r}; allowed is a mapping with {', '.join(allowed)}.")
        for key in values:
            if key not in allowed:
                raise SettingsError(f"unknown key registry.{key}: allowed are {', '.join(allowed)}.")
        tuples: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(keep=keep, **tuples)

    @classmethod
    def from_yaml(cls, path: Path) -> RegistrySettings:
        """From a `server.yaml`. Its other sections are the server's business, but for what it loads at start."""
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise SettingsError(f"cannot read {path}: {error.strerror}.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise SettingsError(f"{path} holds {values!r}; allowed is a mapping.")
        return cls.from_dict(values.get("registry", {}), kept_of(values.get("load")))


def kept_of(load: Any) -> tuple[str, ...]:
    """The avatars among the models that a server loads at its start; None: its default."""
    if not isinstance(load, (list, tuple)):
        return (SHIPPED_AVATAR,)
    shipped = ensemble_of(SHIPPED_AVATAR)
    names = [SHIPPED_AVATAR if name == shipped else name for name in load]
    return tuple(name for name in names if isinstance(name, str) and _is_id(name) and name != "lipsync_visual_ensemble")


def _check(key: str, value: Any, allowed: str, is_allowed: Callable[[Any], bool]) -> None:
    try:
        if is_allowed(value):
            return
    except TypeError:  # of another type than can be compared
        pass
    raise SettingsError(f"registry.{key} is {value!r}; allowed is {allowed}.")


def _number(kind: type, low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: (
        type(value) in (int, kind) and low <= value <= high
    )  # bool is an int; YAML's `yes` is no number


def _or_none(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: value is None or _number(float, low, high)(value)


def _all(is_allowed: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(map(is_allowed, value))


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and VALID_ID.fullmatch(value) is not None
