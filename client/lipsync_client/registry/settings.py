"""Settings of the registry: the section `registry` of `server.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictFloat, StrictInt, StrictStr, model_validator
from pydantic.dataclasses import dataclass

from lipsync_client.avatar_file.names import VALID_ID
from lipsync_client.settings import CHECKED, SettingsError, checked, read_yaml
from lipsync_client.wire import SHIPPED_AVATAR, ensemble_of

__all__ = ["RegistrySettings", "SettingsError"]

Id = Annotated[StrictStr, Field(pattern=rf"^{VALID_ID.pattern}$")]
Gpu = Annotated[StrictInt, Field(ge=0, le=63)]
Gigabytes = Annotated[StrictInt | StrictFloat, Field(ge=0.001, le=1e5)]
Seconds = Annotated[StrictInt | StrictFloat, Field(ge=1, le=1e9)]


@dataclass(frozen=True, config=CHECKED)
class RegistrySettings:
    """Settings of a registry; `server.yaml` explains each.

    Attributes:
        keep: avatars that are never unloaded, because the server loads them at its start. It is not in the section.
    """

    preload: tuple[Id, ...] = Field(default=(), description="a list of avatars' ids")
    max_models: StrictInt = Field(default=40, ge=1, le=1000, description="a whole number from 1 to 1000")
    max_memory_gb: Gigabytes | None = Field(default=None, description="a number above 0, or null for no limit")
    eviction: Literal["lfu", "lru"] = Field(default="lfu", description="lfu or lru")
    idle_timeout: Seconds | None = Field(default=None, description="seconds from 1 up, or null for never")
    gpus: tuple[Gpu, ...] = Field(default=(), description="a list of the server's GPU numbers, such as [0, 1]")
    memory_gb_per_gpu: Gigabytes | None = Field(default=None, description="a number above 0, or null for no limit")
    placement: Literal["round_robin", "least_loaded"] = Field(
        default="round_robin", description="round_robin or least_loaded"
    )
    keep: tuple[str, ...] = Field(default=(SHIPPED_AVATAR,), exclude=True)

    @model_validator(mode="after")
    def _fits(self) -> RegistrySettings:
        if self.memory_gb_per_gpu is not None and not self.gpus:
            raise ValueError("registry.memory_gb_per_gpu is for the GPUs in registry.gpus, which is empty: name them.")
        if len(needed := {*self.preload, *self.keep}) > self.max_models:
            raise ValueError(
                f"registry.max_models is {self.max_models}, but {', '.join(sorted(needed))} are to be loaded at start."
            )
        return self

    @classmethod
    def from_dict(cls, values: Any, keep: tuple[str, ...] = (SHIPPED_AVATAR,)) -> RegistrySettings:
        """Settings from the section's plain YAML values. Raises SettingsError."""
        if isinstance(values, dict):
            if "keep" in values:
                raise SettingsError("unknown key registry.keep: it follows from `load`.")
            values = {**values, "keep": keep}
        return checked(cls, values, "registry")

    @classmethod
    def from_yaml(cls, path: Path) -> RegistrySettings:
        """Settings from a `server.yaml`. Of its other sections, only `load` is read. Raises SettingsError."""
        values = read_yaml(path)
        if not isinstance(values, dict):
            raise SettingsError(f"{path} holds {values!r}; allowed is a mapping.")
        return cls.from_dict(values.get("registry", {}), kept_of(values.get("load")))


def kept_of(load: Any) -> tuple[str, ...]:
    """The avatars among the models that a server loads at its start; for None, those of the default."""
    if not isinstance(load, (list, tuple)):
        return (SHIPPED_AVATAR,)
    shipped = ensemble_of(SHIPPED_AVATAR)
    names = [SHIPPED_AVATAR if name == shipped else name for name in load]
    return tuple(
        name
        for name in names
        if isinstance(name, str) and VALID_ID.fullmatch(name) and name != "lipsync_visual_ensemble"
    )
