"""A clock for live sessions that tests control.

On it nothing takes time but what waits for it, and, where a test says so, the server: time stands still while a call is
on its way, and jumps to the next sleeper's time when none is.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tritonclient.grpc.aio import InferenceServerClient

from lipsync_client import LiveFrame, LiveSession

WAIT_S = 60  # of real time: no test may hang


class TestClock:
    """Time goes on when every call was answered. `delay(call number)` makes answers take simulated seconds."""

    __test__ = False

    def __init__(self) -> None:
        self.time = 1000.0
        self.delay: Callable[[int], float] = lambda number: 0.0
        self.calls = 0
        self.waits_for_calls = True
        self._on_the_way = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    def now(self) -> float:
        return self.time

    async def sleep_until(self, time: float) -> None:
        done = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (max(time, self.time), next(self._count), done))
        await done

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count the calls that are on their way."""
        for name in ("infer", "get_model_config", "is_server_ready"):
            monkeypatch.setattr(InferenceServerClient, name, self._counted(getattr(InferenceServerClient, name)))

    def _counted(self, method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def counted(client: Any, model: str = "", *values: Any, **options: Any) -> Any:
            talking = method.__name__ == "infer" and model != "composite"
            number, self.calls = self.calls, self.calls + talking
            until = self.time + (self.delay(number) if talking else 0.0)
            self._on_the_way += 1
            try:
                answer = await method(client, *([model] if model else []), *values, **options)
            finally:
                self._on_the_way -= 1
            if until > self.time:
                await self.sleep_until(until)
            return answer

        return counted

    async def run(self) -> None:
        """Let time pass for ever."""
        while True:
            deadline = time.monotonic() + WAIT_S
            while await self._busy():
                assert time.monotonic() < deadline, "a call hangs"
                await asyncio.sleep(0.0005)
            if not self._sleepers:
                await asyncio.sleep(0.0005)
                continue
            until, _, done = heapq.heappop(self._sleepers)
            if not done.done():
                self.time = until
                done.set_result(None)

    async def _busy(self) -> bool:
        for _ in range(5):  # what an answer sets going may send the next call
            await asyncio.sleep(0)
        return self.waits_for_calls and self._on_the_way > 0


def run(main: Callable[[], Coroutine[Any, Any, Any]], clock: TestClock) -> Any:
    async def all_of_it() -> Any:
        ticking = asyncio.create_task(clock.run())
        work = asyncio.create_task(main())
        await asyncio.wait([ticking, work], return_when=asyncio.FIRST_COMPLETED, timeout=3 * WAIT_S)
        ticking.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait([work], timeout=1)
            await ticking
        return work.result()

    return asyncio.run(all_of_it())


async def take(session: LiveSession, count: int) -> list[LiveFrame]:
    return [await anext(session) for _ in range(count)]


async def until_last(session: LiveSession, most: int = 2000) -> list[LiveFrame]:
    frames = []
    for _ in range(most):
        frames.append(await anext(session))
        if frames[-1].last:
            return frames
    raise AssertionError(f"no end within {most} frames")
