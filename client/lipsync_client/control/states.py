"""What the server tells of itself, its models and its avatars."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from lipsync_client import wire

__all__ = ["AvatarOverview", "AvatarState", "AvatarStats", "ModelState", "ServerStatus"]

HOLDING = ("READY", "LOADING", "UNLOADING")  # states in which a model has memory


@dataclass(frozen=True)
class ServerStatus:
    """`ready`: the server answers and takes requests. `version`: Triton's."""

    live: bool
    ready: bool
    version: str


@dataclass(frozen=True)
class ModelState:
    """A model as Triton lists it: `state` is READY, LOADING, UNLOADING, UNAVAILABLE, or "" if it was never loaded."""

    name: str
    state: str
    reason: str


@dataclass(frozen=True)
class AvatarState:
    """`loaded`: it takes requests. `reason`: why it is not, as far as the server says. `phase`: "loaded", "loading" (or
    loaded in part), "unloading" (it still holds memory), "unloaded", "failed", "not loaded" (never)."""

    id: str
    loaded: bool
    reason: str
    phase: str = field(default="", compare=False)


@dataclass(frozen=True)
class AvatarStats:
    """What a loaded avatar has done since it was loaded. Times are means over requests, in milliseconds.

    Attributes:
        requests: answered requests.
        failures: failed ones.
        request_ms: a whole request, all stages.
        frames: frames that the U-Net made, the few of its warm-up too.
        queue_ms: how long a request's frames wait for the U-Net.
        compute_ms: how long it works on the batch that they are in.
        last_used: the last request's time, None if there was none.
    """

    requests: int
    failures: int
    request_ms: float
    frames: int
    queue_ms: float
    compute_ms: float
    last_used: datetime | None


@dataclass(frozen=True)
class AvatarOverview:
    """All that the server tells of an avatar; what only a loaded one has is None if it is not.

    Attributes:
        gpus: the GPUs that its network runs on, an instance on each; none: the CPU.
        memory_mb: what one instance holds for itself, as measured on a CPU when the avatar was packed.
    """

    state: AvatarState
    gpus: tuple[int, ...] | None = None
    memory_mb: int | None = None
    stats: AvatarStats | None = None


def models_in(index: Any) -> list[ModelState]:
    """The models of a repository index answer, by name: of several versions the one that serves, else the last."""
    found: dict[str, ModelState] = {}
    for model in index.models:
        known = found.get(model.name)
        if not model.name.startswith(".") and (known is None or known.state not in HOLDING):  # dots: in the making
            found[model.name] = ModelState(model.name, model.state, wire.plain(model.reason))
    return [found[name] for name in sorted(found)]


def avatars_in(models: list[ModelState]) -> list[AvatarState]:
    """The avatars among models: X is one if there is a model X_lipsync; the shipped one is the model lipsync."""
    by_name = {model.name: model for model in models}
    suffix = "_lipsync"
    names = [name.removesuffix(suffix) for name in by_name if name.endswith(suffix)]
    if wire.lipsync_of(wire.SHIPPED_AVATAR) in by_name:
        names.append(wire.SHIPPED_AVATAR)
    return [_state(name, by_name) for name in sorted(names)]


def _state(avatar: str, by_name: dict[str, ModelState]) -> AvatarState:
    stage, whole = by_name[wire.lipsync_of(avatar)], by_name.get(wire.ensemble_of(avatar))
    if whole is None:
        return AvatarState(avatar, False, f"its ensemble {wire.ensemble_of(avatar)!r} is missing", _phase(stage))
    if whole.state == "READY":
        return AvatarState(avatar, True, "", "loaded")
    # The stage knows why it failed; the ensemble only that it did. "unloaded" is Triton's word for a wish fulfilled.
    reasons = (model.reason for model in (stage, whole) if model.reason not in ("", "unloaded"))
    return AvatarState(avatar, False, next(reasons, ""), _phase(stage, whole))


def _phase(*models: ModelState) -> str:
    states = {model.state for model in models}
    if states & {"READY", "LOADING"}:
        return "loading"
    if "UNLOADING" in states:
        return "unloading"
    reasons = {model.reason for model in models} - {""}
    return "failed" if reasons - {"unloaded"} else "unloaded" if reasons else "not loaded"


def avatar_stats(whole: Any, stage: Any) -> AvatarStats:
    """From the statistics of its ensemble and of its network."""
    last = whole.last_inference
    return AvatarStats(
        requests=whole.inference_stats.success.count,
        failures=whole.inference_stats.fail.count,
        request_ms=_mean_ms(whole.inference_stats.success),
        frames=stage.inference_count,
        queue_ms=_mean_ms(stage.inference_stats.queue),
        compute_ms=_mean_ms(stage.inference_stats.compute_infer),
        last_used=datetime.fromtimestamp(last / 1000, timezone.utc) if last else None,
    )


def gpus_of(config: Any) -> tuple[int, ...]:
    """The GPUs that a model runs on, by its config as the server completed it."""
    return tuple(sorted({gpu for group in config.instance_group for gpu in group.gpus}))


def _mean_ms(duration: Any) -> float:
    return duration.ns / duration.count / 1e6 if duration.count else 0.0
