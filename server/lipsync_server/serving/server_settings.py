"""`server.yaml` as a dataclass: everything is checked before anything starts."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic.dataclasses import dataclass

from lipsync_client.registry.settings import RegistrySettings, kept_of
from lipsync_client.settings import CHECKED, SettingsError, checked, read_yaml
from lipsync_server.gateway.settings import GatewaySettings
from lipsync_server.serving.errors import ConfigError

PORT = "a port number from 0 (any free one) to 65535"
NAMES = "a list of model names"

GATEWAY = "true, false or a mapping with settings of the gateway, such as {max_open_requests: 100}"
SET_BY_SERVE = (
    "upstreams",
    "upstream_metrics",
    "supervisor_status",
    "bind",
    "grpc_port",
    "http_port",
    "monolithic_port",
)

GpuConfigs = Literal["cuda", "tensorrt"]
Port = Annotated[StrictInt, Field(ge=0, le=65535)]
ModelName = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Count = Annotated[StrictInt, Field(ge=1, le=64)]
Gpu = Annotated[StrictInt, Field(ge=0, le=63)]
Text = Annotated[StrictStr, Field(min_length=1)]
Gateway = StrictBool | dict[StrictStr, Any]
IPv4 = Annotated[StrictStr, AfterValidator(lambda value: str(ipaddress.IPv4Address(value)))]


@dataclass(frozen=True, config=CHECKED)
class Ports:
    """TCP ports of the end points; 0 takes any free one. The gateway has a monolithic one, Triton one for metrics."""

    http: Port = Field(default=8000, description=PORT)
    grpc: Port = Field(default=8001, description=PORT)
    metrics: Port = Field(default=8002, description=PORT)
    monolithic: Port = Field(default=50053, description=PORT)

    @model_validator(mode="after")
    def _differ(self) -> Ports:
        fixed = [port for port in vars(self).values() if port]
        if len(set(fixed)) < len(fixed):
            raise ValueError(f"ports: {vars(self)} uses a port twice; each end point needs its own.")
        return self


@dataclass(frozen=True, config=CHECKED)
class ServerConfig:
    """Settings of one server; `server.yaml` explains each. Wrong values raise a ValueError."""

    bind: IPv4 = Field(
        default="127.0.0.1", description="an IPv4 address such as 127.0.0.1 (this machine only) or 0.0.0.0"
    )
    ports: Ports = Field(default_factory=Ports)
    gateway: Gateway = Field(default=True, description=GATEWAY)
    load: tuple[ModelName, ...] = Field(default=("lipsync_ensemble", "lipsync_visual_ensemble"), description=NAMES)
    required: tuple[ModelName, ...] = Field(default=("lipsync_ensemble",), description=NAMES)
    instances: dict[ModelName, Count] = Field(
        default_factory=dict, description="model names with a count from 1 to 64 each, as {composite: 2}"
    )
    gpus: Literal["none", "all"] | Annotated[tuple[Gpu, ...], Field(min_length=1)] = Field(
        default="all", description="none, all or a list of device numbers such as [0, 1]"
    )
    gpu_configs: GpuConfigs | None = Field(default=None, description="cuda, tensorrt or null")
    mark_synthetic: StrictBool = Field(
        default=True, description="true, or false: pictures do not say that AI made them"
    )
    control_key_env: Text = Field(default="LIPSYNC_CONTROL_KEY", description="the name of an environment variable")
    control_key_file: Text | None = Field(default=None, description="a path, or null for the user's cache folder")
    log: Literal["error", "warning", "info", "verbose"] = Field(
        default="warning", description="one of error, warning, info, verbose"
    )
    exit_timeout: StrictInt = Field(default=10, ge=1, le=600, description="whole seconds from 1 to 600")
    registry: RegistrySettings = Field(default_factory=RegistrySettings)  # for the gateway

    @model_validator(mode="after")
    def _loads_what_it_requires(self) -> ServerConfig:
        if missing := [name for name in self.required if name not in self.load]:
            raise ValueError(f"required: {missing[0]!r} is not in `load`; only loaded models can be required.")
        return self

    @model_validator(mode="after")
    def _has_a_gateway(self) -> ServerConfig:
        if isinstance(self.gateway, dict):
            if given := [name for name in SET_BY_SERVE if name in self.gateway]:
                raise ValueError(f"gateway.{given[0]} is for `lipsync gateway` alone: here `bind` and `ports` say it.")
            GatewaySettings.from_dict({**self.gateway, "upstreams": ("127.0.0.1:1",)})
        return self

    @classmethod
    def from_yaml(cls, path: Path) -> ServerConfig:
        """Read a `server.yaml`; keys that it leaves out keep their defaults. Raises ConfigError."""
        try:
            values = read_yaml(path)
        except SettingsError as error:
            raise ConfigError(str(error)) from None
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path.name}: {error}") from None

    @classmethod
    def from_dict(cls, values: Any) -> ServerConfig:
        """Build from plain YAML values (lists become tuples). Raises ConfigError."""
        try:
            if isinstance(values, dict) and "registry" in values:
                registry = RegistrySettings.from_dict(values["registry"], kept_of(values.get("load")))
                values = {**values, "registry": registry}
            return checked(cls, values)
        except SettingsError as error:
            raise ConfigError(str(error)) from None
