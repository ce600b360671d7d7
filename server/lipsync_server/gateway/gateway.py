"""What all ports share: a request is checked, counted and sent on."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from tritonclient.grpc.service_pb2 import ModelConfigRequest, ModelConfigResponse, ModelInferRequest

from lipsync_client.errors import LipsyncError, LoadFailed, Overloaded
from lipsync_client.registry.settings import RegistrySettings, SettingsError
from lipsync_client.wire import COMPOSITE_MODEL
from lipsync_mel.timeline import FPS
from lipsync_server.gateway import checks
from lipsync_server.gateway.avatars import Avatars
from lipsync_server.gateway.callers import Callers
from lipsync_server.gateway.contract import Contract
from lipsync_server.gateway.long_speech import is_long, shortened_or_why
from lipsync_server.gateway.messages import encoded, frames_in
from lipsync_server.gateway.metrics import Metrics
from lipsync_server.gateway.observer import Observer, observed
from lipsync_server.gateway.reading import Reading
from lipsync_server.gateway.refusal import Refused, invalid, is_missing, load_failed, overloaded
from lipsync_server.gateway.settings import GatewaySettings
from lipsync_server.gateway.tokens import Tokens, default_file
from lipsync_server.gateway.upstream import Upstream
from lipsync_server.gateway.upstreams import Upstreams

__all__ = ["Answer", "Call", "Gateway"]

logger = logging.getLogger(__name__)

CONTRACT_S = 10.0  # a contract is asked for again when it is so old
MAX_CONTRACTS = 1000
HUNG_PROBES = 3  # in a row without an answer: there will be none
LOADING = {"ModelConfig", "ModelMetadata"}  # clients ask for these before their first request


@dataclass(frozen=True)
class Call:
    """How a request came.

    Attributes:
        front: "grpc", "http" or "monolithic".
        caller: who is counted.
        deadline: when the caller gives up, on the event loop's clock.
    """

    front: str
    caller: str
    deadline: float = math.inf


@dataclass(frozen=True)
class Answer:
    """A ModelInferResponse.

    Attributes:
        data: its bytes.
        load_s: seconds for which its avatar was loaded first; 0: it was loaded.
    """

    data: bytes
    load_s: float = 0.0


class Gateway:
    """The core of the gateway, for the event loop that runs when it is made."""

    def __init__(self, settings: GatewaySettings, registry: RegistrySettings | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.now = asyncio.get_running_loop().time
        self.upstreams = Upstreams(settings, self.metrics, self.now)
        self.avatars = Avatars(self.upstreams, registry or RegistrySettings(), settings, self.now)
        self._callers = Callers(settings.max_open_per_caller, settings.max_open_requests)
        self.tokens = Tokens(Path(settings.tokens) if settings.tokens else default_file())
        self.reading = Reading(settings)
        self.streams = Callers(settings.max_streams_per_caller, settings.max_open_requests)
        self.observer = Observer()
        self._contracts: dict[str, tuple[float, Contract]] = {}

    @property
    def ready(self) -> bool:
        """A frame was made a moment ago."""
        return self.upstreams.ready

    @property
    def open_requests(self) -> int:
        """Inference requests that are open now, of all callers."""
        return self._callers.open

    @property
    def hung(self) -> bool:
        """An upstream, or an avatar's stage in it, did not answer several probes, and nothing was loaded meanwhile."""
        return any(self._is_hung(upstream) for upstream in self.upstreams.all)

    def _is_hung(self, upstream: Upstream) -> bool:
        since = self.upstreams.hung_since(upstream)
        if since is None:
            return False
        busy = max(since, upstream.last_load, self.avatars.last_load(upstream))
        return self.now() - busy >= HUNG_PROBES * self.settings.probe_timeout_s

    async def open(self) -> None:
        """Begin to probe the upstreams and to manage their avatars."""
        self.upstreams.open()
        await self.avatars.open()

    async def close(self) -> None:
        """End everything that runs."""
        await self.avatars.close()
        await self.upstreams.close()

    @contextmanager
    def counted(self, call: Call) -> Iterator[None]:
        """One inference request: it is open while the block runs, and its end is counted."""
        outcome = "failed"
        try:
            with self.tokens.admitted(), self._callers.admitted(call.caller):
                yield
            outcome = "ok"
        except Refused as refused:
            outcome = "refused" if refused.code is grpc.StatusCode.INVALID_ARGUMENT else "failed"
            self.metrics.refusals.labels(refused.reason).inc()
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception:
            logger.exception("a request failed in the gateway")
            raise Refused(grpc.StatusCode.INTERNAL, "the gateway failed on this request", "gateway") from None
        finally:
            self.metrics.requests.labels(call.front, outcome).inc()

    async def infer(self, data: bytes, call: Call) -> bytes:
        """The answer to a ModelInferRequest, both as bytes. An avatar that is not loaded is loaded. Raises Refused."""
        with self.counted(call):
            request = checks.parsed(data)
            return (await self._infer(request, data, call)).data

    async def infer_message(self, request: ModelInferRequest, call: Call) -> Answer:
        """As `infer`, of a request that was made here, in a block of `counted`."""
        return await self._infer(request, encoded(request), call)

    async def contract(self, model: str, deadline: float = math.inf) -> Contract:
        """What a public model takes. Raises Refused if it is none, or not loaded."""
        checks.check_name(model)
        asked, contract = self._contracts.get(model, (-math.inf, None))
        if contract is None or self.now() - asked > CONTRACT_S:
            request = encoded(ModelConfigRequest(name=model))
            answer = await self.upstreams.send("ModelConfig", request, deadline)
            contract = Contract.of(ModelConfigResponse.FromString(answer).config)
            if len(self._contracts) >= MAX_CONTRACTS:
                self._contracts.clear()
            self._contracts[model] = self.now(), contract
        return contract

    async def contract_loading(self, model: str) -> Contract:
        """As `contract`. An avatar that is not loaded is loaded."""
        try:
            return await self.contract(model)
        except Refused as refused:
            if not is_missing(refused.code, refused.sentence) or not await self._ensure(model):
                raise
        return await self.contract(model)

    async def about(self, method: str, model: str, data: bytes, deadline: float = math.inf) -> bytes:
        """The answer to a question about a model, as bytes. An avatar whose config is asked for is loaded first."""
        try:
            return await self.upstreams.send(method, data, deadline)
        except Refused as refused:
            wanted = method in LOADING and is_missing(refused.code, refused.sentence)
            if not wanted or not await self._ensure(self.avatars.owner_of(model), deadline):
                raise
        return await self.upstreams.send(method, data, deadline)

    def forget_contracts(self) -> None:
        """Models have changed."""
        self._contracts.clear()

    def metrics_text(self) -> bytes:
        """As Prometheus reads it."""
        self.metrics.open.set(self.open_requests)
        self.metrics.log_dropped.set(self.observer.log.dropped if self.observer.log else 0)
        for upstream in self.upstreams.all:
            self.metrics.ready.labels(upstream.address).set(self.upstreams.is_fresh(upstream))
            self.metrics.upstream_open.labels(upstream.address).set(upstream.open)
        return self.metrics.text()

    async def _infer(self, request: ModelInferRequest, data: bytes, call: Call) -> Answer:
        began = self.now()
        load_s = 0.0
        checks.check_name(request.model_name, request.model_version)
        talking = request.model_name != COMPOSITE_MODEL
        observed(model=request.model_name, avatar=self.avatars.id_of(request.model_name) if talking else "")
        for left in reversed(range(self.settings.attempts)):  # a server may be replaced between load and inference
            try:
                answer = await self._checked(request, data, call)
                break
            except Refused as refused:
                if not left or not is_missing(refused.code, refused.sentence):
                    raise
                self._contracts.pop(request.model_name, None)
                asked = self.now()
                if not await self._ensure(request.model_name, call.deadline):
                    raise
                load_s += self.now() - asked
        if frames := frames_in(answer):
            self.avatars.used(request.model_name)
            self.metrics.frames.inc(frames)
            observed(frames=frames)
            self.tokens.spent(frames)
            seconds = self.now() - began
            self.metrics.first_frame.observe(seconds)
            if seconds > frames / FPS:
                self.metrics.slow_frames.inc(frames)
        return Answer(answer, load_s)

    async def _checked(self, request: ModelInferRequest, data: bytes, call: Call) -> bytes:
        checks.check(request, await self.contract(request.model_name, call.deadline))
        if request.model_name == COMPOSITE_MODEL:  # plain footage needs no network
            return await self.upstreams.send("ModelInfer", data, call.deadline)
        if is_long(request):
            shorter = shortened_or_why(request)
            if isinstance(shorter, str):
                raise invalid(shorter, "speech")
            data = shorter.SerializeToString()
        with self.avatars.serving(request.model_name):
            return await self.upstreams.send("ModelInfer", data, call.deadline, talking=request.model_name)

    async def _ensure(self, model: str, deadline: float = math.inf) -> bool:
        try:
            return await self.avatars.ensure(model, deadline)
        except Overloaded as error:
            raise overloaded(str(error)) from None
        except (LoadFailed, SettingsError) as error:
            raise load_failed(str(error)) from None
        except LipsyncError as error:
            raise Refused(grpc.StatusCode.UNAVAILABLE, str(error), "load failed") from None
