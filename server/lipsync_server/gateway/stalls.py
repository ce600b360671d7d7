"""Avatars whose own stage hangs while the server works for others: the probe of the server does not see that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from lipsync_server.gateway.upstream import Upstream, UpstreamError, happens, probe_request

__all__ = ["UNHEALTHY", "Stalls", "hangs"]

UNHEALTHY = "is not healthy"  # what Triton 2.51 says of a stage that is dead, or that hangs
PAUSE_S = 0.5  # between two questions
MAX_ASKED = 4  # avatars that are asked at once; the next failure of another asks for it


def hangs(error: UpstreamError) -> bool:
    """Whether nobody has answered: the server, or one of its stages."""
    return error.code is grpc.StatusCode.DEADLINE_EXCEEDED or UNHEALTHY in error.sentence


@dataclass
class _Stall:
    began: float
    ended: asyncio.Event
    task: asyncio.Task[None] | None = None


class Stalls:
    """Asks for a frame of each avatar that did not answer, until one comes or the trouble is another.

    Args:
        probe_timeout_s: seconds that a frame may take.
        now: monotonic seconds.
    """

    def __init__(self, probe_timeout_s: float, now: Callable[[], float]) -> None:
        self._timeout = probe_timeout_s
        self._now = now
        self._found: dict[tuple[Upstream, str], _Stall] = {}

    def suspect(self, upstream: Upstream, model: str) -> None:
        """A request for an avatar's ensemble was not answered."""
        if (upstream, model) not in self._found and len(self._found) < MAX_ASKED:
            stall = self._found[upstream, model] = _Stall(self._now(), asyncio.Event())
            stall.task = asyncio.create_task(self._ask(upstream, model))

    def made_a_frame(self, upstream: Upstream, model: str) -> None:
        """The avatar works."""
        if stall := self._found.get((upstream, model)):
            stall.began = self._now()

    async def ends(self, upstream: Upstream, model: str, seconds: float) -> bool:
        """Whether an avatar had a stall that ends in time, by a frame or by the end of its upstream."""
        stall = self._found.get((upstream, model))
        return stall is not None and await happens(stall.ended, seconds)

    def since(self, upstream: Upstream) -> float | None:
        """When the longest stall of an upstream began; None: there is none."""
        return min((stall.began for (where, _), stall in self._found.items() if where is upstream), default=None)

    async def close(self) -> None:
        """Ask no more."""
        tasks = [stall.task for stall in self._found.values() if stall.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, upstream: Upstream, model: str) -> None:
        try:
            while upstream.ready:  # else nothing of it works, and its own probe sees that
                try:
                    await upstream.call("ModelInfer", probe_request(model), self._timeout)
                    return
                except UpstreamError as error:
                    if not hangs(error):
                        return
                await asyncio.sleep(PAUSE_S)
        finally:
            self._found.pop((upstream, model)).ended.set()
