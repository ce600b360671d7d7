"""States and statistics of the server, its models and its avatars."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone

from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.grpc.service_pb2 import ModelStatistics, RepositoryIndexResponse, StatisticDuration

from lipsync_client import wire

__all__ = ["AvatarOverview", "AvatarState", "AvatarStats", "ModelState", "ServerStatus"]

HOLDING = ("READY", "LOADING", "UNLOADING")  # states in which a model holds memory
UNLOADED = "unloaded"  # Triton's reason for the state UNAVAILABLE after a requested unload


@dataclass(frozen=True)
class ServerStatus:
    """State of the server.

    Attributes:
        live: it answers.
        ready: it takes requests.
        version: Triton's version; "" while it is not ready.
    """

    live: bool
    ready: bool
    version: str


@dataclass(frozen=True)
class ModelState:
    """A model as Triton lists it.

    Attributes:
        name: its name in the repository.
        state: READY, LOADING, UNLOADING, UNAVAILABLE, or "" if it was never loaded.
        reason: Triton's reason for the state, or "".
    """

    name: str
    state: str
    reason: str


@dataclass(frozen=True)
class AvatarState:
    """An avatar in the server's repository.

    Attributes:
        id: its name.
        loaded: it takes requests.
        reason: why it is not loaded, as far as the server states it.
        phase: "loaded", "loading" (or loaded in part), "unloading" (it still holds memory), "unloaded", "failed", or
            "not loaded" (never).
    """

    id: str
    loaded: bool
    reason: str
    phase: str = field(default="", compare=False)


@dataclass(frozen=True)
class AvatarStats:
    """Statistics of a loaded avatar since it was loaded. Times are means over requests, in milliseconds.

    Attributes:
        requests: answered requests.
        failures: failed ones.
        request_ms: time of a whole request, all stages.
        frames: frames that the U-Net made, including those of its warm-up.
        queue_ms: time that a request's frames wait for the U-Net.
        compute_ms: time that the U-Net takes for the batch with these frames.
        last_used: time of the last request; None if there was none.
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
    """State, placement and statistics of an avatar. The last three are None unless it is loaded.

    Attributes:
        state: whether it is loaded.
        gpus: the GPUs that its network runs on, an instance on each; empty: the CPU.
        memory_mb: memory in MiB of one instance, as measured on a CPU when the avatar was packed.
        stats: its statistics since it was loaded.
    """

    state: AvatarState
    gpus: tuple[int, ...] | None = None
    memory_mb: int | None = None
    stats: AvatarStats | None = None


def models_in(index: RepositoryIndexResponse) -> list[ModelState]:
    """The models of a repository index, sorted by name. Of several versions, the one that is served, else the last."""
    found: dict[str, ModelState] = {}
    for model in index.models:
        known = found.get(model.name)
        if not model.name.startswith(".") and (known is None or known.state not in HOLDING):  # a dot: a draft
            found[model.name] = ModelState(model.name, model.state, wire.plain(model.reason))
    return [found[name] for name in sorted(found)]


def avatars_in(models: list[ModelState]) -> list[AvatarState]:
    """The avatars among models. X is an avatar if there is a model X_lipsync; the shipped one has the model lipsync."""
    by_name = {model.name: model for model in models}
    suffix = "_lipsync"
    names = [name.removesuffix(suffix) for name in by_name if name.endswith(suffix)]
    if wire.lipsync_of(wire.SHIPPED_AVATAR) in by_name:
        names.append(wire.SHIPPED_AVATAR)
    return [_state(name, by_name) for name in sorted(names)]


def _state(avatar: str, by_name: dict[str, ModelState]) -> AvatarState:
    network, ensemble = by_name[wire.lipsync_of(avatar)], by_name.get(wire.ensemble_of(avatar))
    if ensemble is None:
        return AvatarState(avatar, False, f"its ensemble {wire.ensemble_of(avatar)!r} is missing", _phase(network))
    if ensemble.state == "READY":
        return AvatarState(avatar, True, "", "loaded")
    # The network's model states why it failed. The ensemble states only that it failed.
    reasons = (model.reason for model in (network, ensemble) if model.reason not in ("", UNLOADED))
    return AvatarState(avatar, False, next(reasons, ""), _phase(network, ensemble))


def _phase(*models: ModelState) -> str:
    states = {model.state for model in models}
    if states & {"READY", "LOADING"}:
        return "loading"
    if "UNLOADING" in states:
        return "unloading"
    reasons = {model.reason for model in models} - {""}
    return "failed" if reasons - {UNLOADED} else "unloaded" if reasons else "not loaded"


def avatar_stats(ensemble: ModelStatistics, network: ModelStatistics) -> AvatarStats:
    """The avatar's statistics, from those of its ensemble and of its network."""
    last = ensemble.last_inference
    return AvatarStats(
        requests=ensemble.inference_stats.success.count,
        failures=ensemble.inference_stats.fail.count,
        request_ms=_mean_ms(ensemble.inference_stats.success),
        frames=network.inference_count,
        queue_ms=_mean_ms(network.inference_stats.queue),
        compute_ms=_mean_ms(network.inference_stats.compute_infer),
        last_used=datetime.fromtimestamp(last / 1000, timezone.utc) if last else None,
    )


def gpus_of(config: ModelConfig) -> tuple[int, ...]:
    """Numbers of the GPUs that a model runs on, from its config as the server completed it."""
    return tuple(sorted({gpu for group in config.instance_group for gpu in group.gpus}))


def _mean_ms(duration: StatisticDuration) -> float:
    return float(duration.ns / duration.count / 1e6) if duration.count else 0.0
