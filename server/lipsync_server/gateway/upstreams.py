"""The Tritons behind the gateway: which one gets a request, and what happens when it fails."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

import grpc

from lipsync_client import wire
from lipsync_mel import refusals
from lipsync_server.gateway.messages import frames_in
from lipsync_server.gateway.metrics import Metrics
from lipsync_server.gateway.refusal import Refused, is_missing
from lipsync_server.gateway.settings import GatewaySettings
from lipsync_server.gateway.stalls import UNHEALTHY, Stalls, hangs
from lipsync_server.gateway.suspects import Suspects
from lipsync_server.gateway.upstream import Metadata, Upstream, UpstreamError, happens, probe_request

__all__ = ["Upstreams"]

ELSEWHERE = {  # statuses that another upstream may not have; requests are stateless, so they may be sent again
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
BROKEN = ELSEWHERE - {grpc.StatusCode.NOT_FOUND}  # statuses after which it is probed at once
BROKEN_STAGE = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
NOT_REACHED = "failed to connect"  # what gRPC says of a call that reached nobody
DOWN_INTERVAL_S = 0.5  # between probes of one that does not work
HELD = 0.5  # of a caller's time: the rest is for the work, or the caller is told why, and comes back with all its time


class Upstreams:
    """All upstreams. Each is asked for a frame when it has made none for a while.

    Args:
        settings: their addresses, limits and times.
        metrics: what happens is counted there.
        now: monotonic seconds, of the running event loop.
    """

    def __init__(self, settings: GatewaySettings, metrics: Metrics, now: Callable[[], float]) -> None:
        self.all = [Upstream(address, now) for address in dict.fromkeys(settings.upstreams)]
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._any_ready = asyncio.Event()
        self._suspects = Suspects(now, settings.patience_s)
        self._stalls = Stalls(settings.probe_timeout_s, now)
        self._probe = probe_request(wire.ensemble_of(settings.probe_avatar))
        self._watching: list[asyncio.Task[None]] = []
        # A frame is older than the interval when the next is asked for, which may take its time-out.
        self._fresh_s = 2 * settings.probe_interval_s + settings.probe_timeout_s

    def open(self) -> None:
        """Begin to probe."""
        watches = [watch(upstream) for upstream in self.all for watch in (self._watch, Upstream.watch_connection)]
        self._watching = [asyncio.create_task(watch) for watch in watches]

    async def close(self) -> None:
        """End every call and connection."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await self._stalls.close()
        await asyncio.gather(*(upstream.close() for upstream in self.all))

    @property
    def ready(self) -> bool:
        """Some upstream has made a frame a moment ago."""
        return any(self.is_fresh(upstream) for upstream in self.all)

    def is_fresh(self, upstream: Upstream) -> bool:
        """It has made a frame a moment ago."""
        return upstream.ready and self._now() - upstream.last_frame < self._fresh_s

    def hung_since(self, upstream: Upstream) -> float | None:
        """When an upstream stopped to answer, or an avatar's own stage of it; None: they answer."""
        found = [since for since in (upstream.hung_since, self._stalls.since(upstream)) if since is not None]
        return min(found, default=None)

    def trouble(self) -> str:
        """Why none is ready."""
        return "; ".join(f"{one.address}: {one.trouble or 'no frame for a while'}" for one in self.all)

    def next_ready(self, tried: Iterable[Upstream] = ()) -> Upstream | None:
        """The ready one with the fewest open calls."""
        ready = [upstream for upstream in self.all if upstream.ready and upstream not in tried]
        return min(ready, key=lambda upstream: upstream.open, default=None)

    async def least_loaded(self, deadline: float = math.inf) -> Upstream:
        """As `next_ready`. While none is ready it is waited for, as long as the settings say. Raises Refused."""
        if (upstream := self.next_ready()) is None:
            await self._wait_until_ready(deadline)
            upstream = self.next_ready()
        if upstream is None:
            raise self._none_ready()
        return upstream

    async def send(self, method: str, data: bytes, deadline: float = math.inf, *, talking: str = "") -> bytes:
        """One call, to the least loaded upstream that is ready, or after a failure to the next.

        While none is ready it is held, as long as the settings say.

        Args:
            method: of `inference.GRPCInferenceService`.
            data: the request's bytes.
            deadline: when its caller gives up, on the clock of `now`.
            talking: the ensemble that is asked for frames, which prove that all stages of the upstream work.

        Raises:
            Refused: the failure that is to be reported.
        """
        tried: list[Upstream] = []
        worst: Refused | None = None
        for _ in range(self._settings.attempts):
            upstream = self.next_ready(tried)
            if upstream is None and any(one.ready for one in tried):
                break  # each that is there has refused
            if upstream is None:
                await self._wait_until_ready(deadline)
                upstream, tried = self.next_ready(), []
            if upstream is None:
                break
            try:
                if method == "ModelInfer":
                    answer = await self._infer(upstream, data, deadline, talking)
                else:
                    answer = await self._attempt(upstream, method, data, deadline)
            except UpstreamError as error:
                if error.code not in ELSEWHERE:
                    raise _refused(error) from None
                tried, worst = [*tried, upstream], _refused(error)
                # With no other upstream it is waited for, as one that does not work at all.
                if self.next_ready(tried) is None and await self._stalls.ends(upstream, talking, self._held(deadline)):
                    tried = []
                continue
            if talking and frames_in(answer):
                upstream.made_a_frame()
                self._stalls.made_a_frame(upstream, talking)
                self._update()
            return answer
        if worst is None:
            raise self._none_ready()
        try:
            raise worst
        finally:
            del worst  # it has this frame, and so the request: a circle

    async def _infer(self, upstream: Upstream, data: bytes, deadline: float, talking: str) -> bytes:
        """One attempt of an inference request. Raises UpstreamError; Refused where the request ends upstreams."""
        async with self._suspects.running(data) as run:
            if not upstream.ready:  # it has gone while others had their turn
                raise UpstreamError(
                    grpc.StatusCode.UNAVAILABLE, f"{NOT_REACHED} {upstream.address}: {upstream.trouble}"
                )
            began = self._now()
            try:
                answer = await self._attempt(upstream, "ModelInfer", data, deadline)
            except asyncio.CancelledError:
                if talking and self._now() - began > self._settings.probe_interval_s:  # its caller has waited for long
                    self._stalls.suspect(upstream, talking)
                raise
            except UpstreamError as error:
                if upstream.ready and talking and hangs(error):
                    self._stalls.suspect(upstream, talking)
                if not upstream.ready and NOT_REACHED not in error.sentence:
                    self._suspects.died(run)
                raise
            self._suspects.survived(run)
            return answer

    async def everywhere(self, method: str, data: bytes, metadata: Metadata, timeout: float) -> bytes:
        """A call that changes servers, made on each that is not known to be gone; the first answer. Raises Refused."""
        chosen = [one for one in self.all if one.ready] or self.all
        calls = (upstream.call(method, data, timeout, metadata) for upstream in chosen)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, UpstreamError):
                raise _refused(answer)
            if isinstance(answer, BaseException):
                raise answer
        return next(answer for answer in answers if isinstance(answer, bytes))

    async def _attempt(self, upstream: Upstream, method: str, data: bytes, deadline: float) -> bytes:
        # A little more than the caller's own time: Triton is not to see calls that end as they begin.
        timeout = min(self._settings.attempt_timeout_s, deadline - self._now() + 0.5)
        try:
            answer = await upstream.call(method, data, timeout)
        except UpstreamError as error:
            self._metrics.attempts.labels(upstream.address, error.code.name).inc()
            if error.code in BROKEN and not _is_told(error):
                await self._doubt(upstream, error, deadline)
            raise
        self._metrics.attempts.labels(upstream.address, "OK").inc()
        return answer

    async def _doubt(self, upstream: Upstream, error: UpstreamError, deadline: float) -> None:
        """Probe an upstream after a failure. Wait for that where nobody may be there, or one of its stages be dead."""
        upstream.suspect.set()
        if error.code in {grpc.StatusCode.UNAVAILABLE, *BROKEN_STAGE} and upstream.ready:
            await happens(upstream.probed, min(self._settings.probe_timeout_s, self._seconds_left(deadline)))

    def _seconds_left(self, deadline: float) -> float:
        """Seconds until a caller is told the failure, while it has time left."""
        return (deadline - self._now()) * HELD

    def _held(self, deadline: float) -> float:
        """Seconds for which a request is held."""
        return min(self._settings.patience_s, self._seconds_left(deadline))

    async def _wait_until_ready(self, deadline: float) -> None:
        if not await happens(self._any_ready, self._held(deadline)):
            raise self._none_ready()

    def _none_ready(self) -> Refused:
        sentence = f"no server behind this gateway is ready: {self.trouble()}"
        return Refused(grpc.StatusCode.UNAVAILABLE, sentence, "no server ready")

    def _update(self) -> None:
        if any(upstream.ready for upstream in self.all):
            self._any_ready.set()
        else:
            self._any_ready.clear()

    async def _watch(self, upstream: Upstream) -> None:
        """Ask for a frame whenever none was made for an interval, or something went wrong."""
        interval = self._settings.probe_interval_s
        while True:
            quiet = self._now() - upstream.last_frame >= interval
            if quiet or not upstream.ready or upstream.suspect.is_set():
                upstream.suspect.clear()
                await self._ask_for_a_frame(upstream)
                self._update()
                upstream.probed.set()
                upstream.probed = asyncio.Event()
            await happens(upstream.suspect, interval if upstream.ready else min(interval, DOWN_INTERVAL_S))

    async def _ask_for_a_frame(self, upstream: Upstream) -> None:
        began = upstream.last_probe = self._now()
        try:
            answer = await upstream.call("ModelInfer", self._probe, self._settings.probe_timeout_s)
        except UpstreamError as error:
            if upstream.last_frame >= began:  # it works for others
                return
            if _is_overloaded(error):
                return  # it says so itself, so it is there; whether it makes frames is seen by those
            silent = error.code is grpc.StatusCode.DEADLINE_EXCEEDED
            trouble = "it does not answer" if silent else wire.plain(error.sentence)
            # Where there is no other, a slow answer is better than none.
            give_up = silent and self.next_ready([upstream]) is not None
            upstream.failed(
                " ".join(trouble.split()),
                hung_since=began if hangs(error) else None,
                give_up=give_up,
            )
            return
        if frames_in(answer):
            upstream.made_a_frame()
        else:
            upstream.failed("it made no frame")


def _is_overloaded(error: UpstreamError) -> bool:
    return refusals.parse(wire.plain(error.sentence)).code == refusals.OVERLOADED


def _is_told(error: UpstreamError) -> bool:
    """Whether a server itself says why it does not serve this request, so that it is there."""
    return _is_overloaded(error) or is_missing(error.code, error.sentence)


def _refused(error: UpstreamError) -> Refused:
    if UNHEALTHY in error.sentence:  # callers come back after this status
        return Refused(grpc.StatusCode.UNAVAILABLE, error.sentence, "no server ready")
    return Refused(error.code, error.sentence, "upstream")
