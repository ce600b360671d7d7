"""`server.yaml` as a dataclass: everything is checked before anything starts."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lipsync_client.registry.settings import RegistrySettings, SettingsError, kept_of
from lipsync_server.serving.errors import ConfigError

GPU_CONFIGS = ("cuda", "tensorrt")
LOG_LEVELS = ("error", "warning", "info", "verbose")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Ports:
    """TCP ports of the three end points; 0 takes any free one."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    def __post_init__(self) -> None:
        for name, port in vars(self).items():
            _check(f"ports.{name}", port, "a port number from 0 (any free one) to 65535", _whole(0, 65535))
        fixed = [port for port in vars(self).values() if port]
        if len(set(fixed)) < len(fixed):
            raise ConfigError(f"ports: {vars(self)} uses a port twice; http, grpc and metrics need one each.")


@dataclass(frozen=True)
class ServerConfig:
    """Settings of one server; `server.yaml` explains each.

    Raises:
        ConfigError: a value is not allowed; names the key, the value and what is allowed.
    """

    bind: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports)
    load: tuple[str, ...] = ("lipsync_ensemble", "lipsync_visual_ensemble")
    required: tuple[str, ...] = ("lipsync_ensemble",)
    instances: Mapping[str, int] = field(default_factory=dict)
    gpus: str | tuple[int, ...] = "all"
    gpu_configs: str | None = None
    control_key_env: str = "LIPSYNC_CONTROL_KEY"
    control_key_file: str | None = None
    log: str = "warning"
    exit_timeout: int = 10
    registry: RegistrySettings = field(default_factory=RegistrySettings)  # for whoever serves users, not for the server

    def __post_init__(self) -> None:
        names = "a list of model names"
        _check("bind", self.bind, "an IPv4 address such as 127.0.0.1 (this machine only) or 0.0.0.0", _is_ipv4)
        _check("load", self.load, names, _is_names)
        _check("required", self.required, names, _is_names)
        if missing := [name for name in self.required if name not in self.load]:
            raise ConfigError(f"required: {missing[0]!r} is not in `load`; only loaded models can be required.")
        _check("instances", self.instances, "model names with a count from 1 to 64 each, as {composite: 2}", _is_counts)
        _check("gpus", self.gpus, "none, all or a list of device numbers such as [0, 1]", _is_gpus)
        _check("gpu_configs", self.gpu_configs, "cuda, tensorrt or null", lambda value: value in (None, *GPU_CONFIGS))
        _check("control_key_env", self.control_key_env, "the name of an environment variable", _is_text)
        _check(
            "control_key_file", self.control_key_file, "a path, or null for the user's cache folder", _is_text_or_none
        )
        _check("log", self.log, f"one of {', '.join(LOG_LEVELS)}", lambda value: value in LOG_LEVELS)
        _check("exit_timeout", self.exit_timeout, "whole seconds from 1 to 600", _whole(1, 600))

    @classmethod
    def from_yaml(cls, path: Path) -> ServerConfig:
        """Read a `server.yaml`; keys that it leaves out keep their defaults."""
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
        try:
            return cls.from_dict({} if values is None else values)
        except ConfigError as error:
            raise ConfigError(f"{path.name}: {error}") from None

    @classmethod
    def from_dict(cls, values: Any) -> ServerConfig:
        """Build from plain YAML values (lists become tuples)."""
        settings = _known(cls, "", values)
        if "ports" in settings:
            settings["ports"] = Ports(**_known(Ports, "ports", settings["ports"]))
        if "registry" in settings:
            try:
                settings["registry"] = RegistrySettings.from_dict(settings["registry"], kept_of(settings.get("load")))
            except SettingsError as error:
                raise ConfigError(str(error)) from None
        tuples: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
        return cls(**tuples)


def _known(cls: type, section: str, values: Any) -> dict[str, Any]:
    allowed = ", ".join(item.name for item in dataclasses.fields(cls))
    if not isinstance(values, dict):
        raise ConfigError(f"{section or 'the file'} holds {values!r}; allowed is a mapping with {allowed}.")
    for key in values:
        if key not in allowed.split(", "):
            name = f"{section}.{key}" if section else key
            raise ConfigError(f"unknown key {name}: allowed are {allowed}.")
    return dict(values)


def _check(key: str, value: Any, allowed: str, is_allowed: Callable[[Any], bool]) -> None:
    if not is_allowed(value):
        raise ConfigError(f"{key} is {value!r}; allowed is {allowed}.")


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high  # bool is an int; YAML's `yes` is no port


def _is_ipv4(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(ipaddress.IPv4Address(value))
    except ValueError:
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_text_or_none(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and MODEL_NAME.fullmatch(value) is not None


def _is_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_name, value))


def _is_counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_name(name) and _whole(1, 64)(n) for name, n in value.items())


def _is_gpus(value: Any) -> bool:
    is_list = isinstance(value, tuple) and bool(value) and all(map(_whole(0, 63), value))
    return value in ("none", "all") or is_list
