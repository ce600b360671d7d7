"""Control of a server: its state and its avatars, by Triton's repository and statistics APIs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from google.protobuf import json_format
from google.protobuf.wrappers_pb2 import StringValue
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup
from tritonclient.utils import InferenceServerException

from lipsync_client import wire
from lipsync_client.avatar_facts import memory_in
from lipsync_client.connection import CHANNEL_ARGS, MANAGER_CHANNEL_ARGS, SECRET, Connection, Endpoint
from lipsync_client.control.states import (
    AvatarOverview,
    AvatarState,
    AvatarStats,
    ModelState,
    ServerStatus,
    avatar_stats,
    avatars_in,
    gpus_of,
    models_in,
)
from lipsync_client.errors import (
    AvatarNotFound,
    ControlDenied,
    InvalidRequest,
    LipsyncError,
    LoadFailed,
    ServerError,
    Timeout,
)
from lipsync_client.folders import cached

__all__ = ["AvatarOverview", "AvatarState", "AvatarStats", "Control", "ModelState", "ServerStatus"]

STATUS_METHOD = "/lipsync.Gateway/Status"  # of a gateway alone; it answers a StringValue with JSON
KEY_HEADER = "triton-grpc-protocol-lipsync-control"  # Triton wants its prefix before the name that the server chose


class Control:
    """A connection that controls a server. Use it as a context manager, or call `close`.

    Listing, loading and unloading need the server's control key; status and statistics do not.

    Args:
        url: the server's gRPC endpoint: `host:port`, or `grpcs://host[:port]` with TLS.
        key: the control key, for this server wherever it is; by default what `find_key` finds.
        timeout: seconds that one call may take.
        load_timeout: seconds that loading a model may take, and unloading one that is being loaded, if not `timeout`.
        manages: its caller manages the server for as long as it runs, so a server that comes back is noticed at once.
        token, headers: as for `Client`.
    """

    def __init__(
        self,
        url: str = wire.DEFAULT_URL,
        *,
        key: str | None = None,
        timeout: float = 60.0,
        load_timeout: float | None = None,
        manages: bool = False,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self._timeout, self._load_timeout = timeout, load_timeout or timeout
        self._key = key
        self._connection = Connection(url, token=token, headers=headers)
        self._grpc = self._connection.connect(MANAGER_CHANNEL_ARGS if manages else CHANNEL_ARGS)

    def status(self) -> ServerStatus:
        """State and version of the server. Raises ServerUnavailable if no server answers."""
        live, ready = (self._ask(ask, key=False) for ask in (self._grpc.is_server_live, self._grpc.is_server_ready))
        # A gateway holds other calls until a server is ready.
        version = self._ask(self._grpc.get_server_metadata, key=False).version if ready else ""
        return ServerStatus(live, ready, version)

    def gateway(self) -> dict[str, Any] | None:
        """What a gateway says of itself, its servers and their supervisor (docs/gateway.md); None: it is no gateway.

        Raises:
            ServerUnavailable: no server answers.
        """
        try:
            answer = self._connection.call(STATUS_METHOD, b"", self._timeout)
        except InferenceServerException as error:
            if "UNIMPLEMENTED" in (error.status() or ""):
                return None
            raise self._failure(error, wire.SHIPPED_AVATAR) from None
        values: dict[str, Any] = json.loads(StringValue.FromString(answer).value)
        return values

    def models(self) -> list[ModelState]:
        """Every model in the server's repository, loaded or not, by name. Needs the key."""
        return models_in(self._ask(self._grpc.get_model_repository_index))

    def avatars(self) -> list[AvatarState]:
        """Every avatar in the server's repository. Needs the key."""
        return avatars_in(self.models())

    def overview(self) -> list[AvatarOverview]:
        """Every avatar in the server's repository, with its placement and statistics. Needs the key."""
        states = self.avatars()
        answer = self._ask(self._grpc.get_inference_statistics, key=False)
        stats = {model.name: model for model in answer.model_stats}
        found = []
        for state in states:
            ensemble, network = (stats.get(name) for name in (wire.ensemble_of(state.id), wire.lipsync_of(state.id)))
            if not state.loaded or ensemble is None or network is None:
                found.append(AvatarOverview(state))
                continue
            try:
                config = self._ask(self._grpc.get_model_config, wire.lipsync_of(state.id), key=False).config
            except AvatarNotFound:  # it was unloaded in the meantime
                found.append(AvatarOverview(state))
                continue
            memory = memory_in(wire.parameters_of(config))
            found.append(AvatarOverview(state, gpus_of(config), memory, avatar_stats(ensemble, network)))
        return found

    def load(self, avatar: str) -> None:
        """Load an avatar, or reload it if its files have changed. The old version is served until then. Needs the key.

        Raises:
            AvatarNotFound: the server's repository has no avatar of that name.
            LoadFailed: it cannot be loaded; the text gives the reason. An earlier version that was loaded is still
                served, and nothing else of the avatar stays loaded.
        """
        own = self._models_of(avatar)
        try:
            # One model at a time: when only the ensemble is loaded, Triton does not report a step that fails to reload.
            for model in own:
                self._load(model.name, avatar)
        except BaseException:  # Ctrl-C too: Triton would complete the load and keep the models
            self._unload_all({model.name for model in own if model.state not in ("READY", "LOADING")})
            raise

    def place(self, avatar: str, gpu: int) -> None:
        """Move a loaded avatar's network to one GPU (its number on the server). Needs the key. Raises LoadFailed."""
        answer = self._ask(self._grpc.get_model_config, wire.lipsync_of(avatar), avatar=avatar, key=False)
        self._load(wire.lipsync_of(avatar), avatar, config=on_gpu(answer.config, gpu))

    def unload(self, avatar: str) -> None:
        """Unload an avatar. Requests in flight are completed, new ones are refused. Needs the key.

        Raises:
            AvatarNotFound: the server's repository has no avatar of that name.
        """
        # By name: "unload_dependents" would also unload the stages that all avatars share.
        for model in reversed(self._models_of(avatar)):
            self._ask(self._grpc.unload_model, model.name, timeout=self._load_timeout)

    def wait_until_gone(self, avatar: str, seconds: float) -> None:
        """Wait until an unloaded avatar no longer holds memory of the server. Needs the key. Raises Timeout."""
        deadline = time.monotonic() + seconds
        while any(one.id == avatar and one.phase in ("unloading", "loading") for one in self.avatars()):
            if time.monotonic() > deadline:
                raise Timeout(f"The server at {self.url} still has {avatar!r} in memory after {seconds:.0f} s.")
            time.sleep(0.1)

    def ready(self, avatar: str) -> bool:
        """Whether an avatar is loaded and takes requests."""
        return bool(self._ask(self._grpc.is_model_ready, wire.ensemble_of(avatar), key=False))

    def stats(self, avatar: str = wire.SHIPPED_AVATAR) -> AvatarStats:
        """Statistics of an avatar since it was loaded. Raises AvatarNotFound if it is not loaded."""
        ensemble, network = (
            self._ask(self._grpc.get_inference_statistics, model, avatar=avatar, key=False).model_stats[0]
            for model in (wire.ensemble_of(avatar), wire.lipsync_of(avatar))
        )
        return avatar_stats(ensemble, network)

    def close(self) -> None:
        self._grpc.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _key_header(self) -> dict[str, str] | None:
        """Found when a call needs it: most need none. Raises ControlDenied, InvalidRequest: it cannot be used."""
        key = self._key or find_key(self.url)
        if key and not SECRET.fullmatch(key):  # gRPC would show it in its error
            raise InvalidRequest("The control key must be printable ASCII characters without spaces.")
        return {KEY_HEADER: key} if key else None

    def _failure(self, error: InferenceServerException, avatar: str) -> LipsyncError:
        failure = wire.translate(error, url=self.url, avatar=avatar)
        endpoint = Endpoint(self.url)
        if not isinstance(failure, ControlDenied) or endpoint.loopback:
            return failure
        advice = "set LIPSYNC_CONTROL_KEY to it; the key file of this machine is not sent to others"
        if not endpoint.secure:
            advice = (
                f"set LIPSYNC_CONTROL_KEY to it and use grpcs://{endpoint.target} or a tunnel; a key that is set or"
                " found here is not sent to other machines unencrypted"
            )
        return ControlDenied(f"The server at {self.url} needs its control key for this: {advice}.")

    def _unload_all(self, names: set[str]) -> None:
        """Unload the models that are loaded or loading, if the server answers. It completes a running load first."""
        with suppress(LipsyncError, ValueError):  # ValueError: `close` was called in the meantime
            for model in self.models():  # an avatar's ensemble comes first
                if model.name in names and model.state in ("READY", "LOADING"):
                    self._ask(self._grpc.unload_model, model.name, timeout=self._load_timeout)

    def _models_of(self, avatar: str) -> list[ModelState]:
        """The avatar's own models, each after the models that it depends on. Raises AvatarNotFound."""
        models = self.models()
        ids = [state.id for state in avatars_in(models)]
        if avatar not in ids:
            raise AvatarNotFound(
                f"There is no avatar {avatar!r} in the repository of the server at {self.url}: "
                f"it has {', '.join(ids) or 'none'}."
            )
        own = (wire.encoder_of(avatar), wire.lipsync_of(avatar), wire.ensemble_of(avatar))
        there = {model.name: model for model in models}
        return [there[name] for name in own if name in there]

    def _load(self, model: str, avatar: str, config: str | None = None) -> None:
        try:
            self._grpc.load_model(model, headers=self._key_header, config=config, client_timeout=self._load_timeout)
        except InferenceServerException as error:
            failure = self._failure(error, avatar)
            if not isinstance(failure, (InvalidRequest, ServerError, AvatarNotFound)):
                raise failure from None
            reason = wire.load_failure(error.message() or "no reason given")
            raise LoadFailed(f"The server could not load {avatar!r}: {reason}") from None

    def _ask(
        self,
        call: Callable[..., Any],
        *values: str,
        avatar: str = wire.SHIPPED_AVATAR,
        key: bool = True,
        timeout: float | None = None,
    ) -> Any:
        try:
            return call(*values, headers=self._key_header if key else None, client_timeout=timeout or self._timeout)
        except InferenceServerException as error:
            raise self._failure(error, avatar) from None


def find_key(url: str = wire.DEFAULT_URL) -> str | None:
    """The control key that may be sent to a server; None if there is none.

    LIPSYNC_CONTROL_KEY holds a key for any server, but it is sent unencrypted to this machine only. The private file
    that a server writes for its user is for servers on this machine.

    Raises:
        ControlDenied: others can read the file.
    """
    endpoint = Endpoint(url)
    if key := os.environ.get("LIPSYNC_CONTROL_KEY"):
        return key if endpoint.loopback or endpoint.secure else None
    path = cached("control.key") if endpoint.loopback else None
    if path is None:
        return None
    try:
        with path.open(encoding="utf-8") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read()
    except (OSError, UnicodeDecodeError):
        return None
    if mode & 0o077 and os.name == "posix":
        raise ControlDenied(
            f"The control key file {path} has mode {mode & 0o777:04o}, so others may read it: `chmod 600 {path}`."
            " If anyone may have seen it, delete it and start the server again, which makes a new one."
        )
    return text.strip() or None


def on_gpu(config: ModelConfig, gpu: int) -> str:
    """A model's config as Triton's load call takes it, with one instance on one GPU."""
    moved = ModelConfig()
    moved.CopyFrom(config)
    del moved.instance_group[:]
    moved.instance_group.add(kind=ModelInstanceGroup.KIND_GPU, count=1, gpus=[gpu])
    return json_format.MessageToJson(moved, preserving_proto_field_name=True)
