"""Look after the server: its state and its avatars, by Triton's own repository and statistics APIs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from . import wire
from .errors import AvatarNotFound, ControlDenied, LipsyncError, LoadFailed

__all__ = ["AvatarState", "AvatarStats", "Control", "ModelState", "ServerStatus"]

KEY_HEADER = "triton-grpc-protocol-lipsync-control"  # Triton wants its prefix before the name that the server chose


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
    """`loaded`: it takes requests. `reason`: why it is not, as far as the server says."""

    id: str
    loaded: bool
    reason: str


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


class Control:
    """The server's controls. Use it as a context manager, or call `close`.

    Listing, loading and unloading need the server's control key; status and statistics do not.

    Args:
        url: host:port of the server's gRPC endpoint.
        key: the control key; by default what `find_key` finds.
        timeout: seconds that one call may take.
    """

    def __init__(self, url: str = wire.DEFAULT_URL, *, key: str | None = None, timeout: float = 60.0) -> None:
        self.url = url
        self._timeout = timeout
        key = key or find_key()
        self._headers = {KEY_HEADER: key} if key else None
        self._grpc = InferenceServerClient(url, channel_args=wire.CHANNEL_ARGS)

    def status(self) -> ServerStatus:
        """Raises ServerUnavailable if nobody answers."""
        return ServerStatus(
            live=self._ask(self._grpc.is_server_live, key=False),
            ready=self._ask(self._grpc.is_server_ready, key=False),
            version=self._ask(self._grpc.get_server_metadata, key=False).version,
        )

    def models(self) -> list[ModelState]:
        """Every model in the server's repository, loaded or not, by name. Needs the key."""
        index = self._ask(self._grpc.get_model_repository_index)
        return sorted(
            (ModelState(m.name, m.state, wire.plain(m.reason)) for m in index.models), key=lambda model: model.name
        )

    def avatars(self) -> list[AvatarState]:
        """Every avatar in the server's repository. Needs the key."""
        return avatars_in(self.models())

    def load(self, avatar: str) -> None:
        """Load an avatar, or load it anew if its files have changed. Needs the key.

        Raises:
            AvatarNotFound: there is none of that name in the server's repository.
            LoadFailed: it is broken; the text gives the reason.
        """
        self._known(avatar)
        try:
            self._ask(self._grpc.load_model, wire.ensemble_of(avatar))
        except ControlDenied:
            raise
        except LipsyncError as error:
            reason = self._known(avatar).reason
            if not reason:
                raise
            raise LoadFailed(f"The server could not load {avatar!r}: {reason}") from error

    def unload(self, avatar: str) -> None:
        """Unload an avatar: requests on their way are finished, new ones refused. Needs the key.

        Raises:
            AvatarNotFound: there is none of that name in the server's repository.
        """
        self._known(avatar)
        # By name: "unload_dependents" would take the stages along that all avatars share.
        for model in (wire.ensemble_of(avatar), wire.lipsync_of(avatar)):
            self._ask(self._grpc.unload_model, model)

    def stats(self, avatar: str = wire.SHIPPED_AVATAR) -> AvatarStats:
        """What an avatar has done since it was loaded. Raises AvatarNotFound if it is not loaded."""
        whole, stage = (
            self._ask(self._grpc.get_inference_statistics, model, avatar=avatar, key=False).model_stats[0]
            for model in (wire.ensemble_of(avatar), wire.lipsync_of(avatar))
        )
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

    def close(self) -> None:
        self._grpc.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _known(self, avatar: str) -> AvatarState:
        for state in (avatars := self.avatars()):
            if state.id == avatar:
                return state
        names = ", ".join(state.id for state in avatars) or "none"
        raise AvatarNotFound(
            f"There is no avatar {avatar!r} in the repository of the server at {self.url}: it has {names}."
        )

    def _ask(self, call: Callable[..., Any], *values: str, avatar: str = wire.SHIPPED_AVATAR, key: bool = True) -> Any:
        try:
            return call(*values, headers=self._headers if key else None, client_timeout=self._timeout)
        except InferenceServerException as error:
            raise wire.translate(error, url=self.url, avatar=avatar) from None


def find_key() -> str | None:
    """The control key: LIPSYNC_CONTROL_KEY, or the private file that the server writes for its user; else None."""
    if key := os.environ.get("LIPSYNC_CONTROL_KEY"):
        return key
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    try:
        return (Path(cache) / "lipsync" / "control.key").read_text().strip() or None
    except OSError:
        return None


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
        return AvatarState(avatar, False, f"its ensemble {wire.ensemble_of(avatar)!r} is missing")
    loaded = whole.state == "READY"
    # The stage knows why it failed; the ensemble only that it did. "unloaded" is Triton's word for a wish fulfilled.
    reasons = (model.reason for model in (stage, whole) if model.reason not in ("", "unloaded"))
    return AvatarState(avatar, loaded, "" if loaded else next(reasons, ""))


def _mean_ms(duration: Any) -> float:
    return duration.ns / duration.count / 1e6 if duration.count else 0.0
