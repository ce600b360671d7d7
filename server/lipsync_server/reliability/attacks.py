"""Part `attacks`: malformed requests from several clients at once, beside two live streams and a rendering."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from lipsync_client.console import note
from lipsync_server.benchmark.memory import watched
from lipsync_server.reliability.attacker import Order
from lipsync_server.reliability.good import Reference, served_well
from lipsync_server.reliability.levels import Level, Levels, memory_by_process
from lipsync_server.reliability.stack import Stack
from lipsync_server.serving.child import Child

__all__ = ["Attack", "answered", "attacks"]

CLIENTS = 4
SETTLE_S = 20.0  # before and after, in which the levels are taken
POINTS = {"warm": 0.1, "quarter": 0.25, "last": 0.85}  # parts of the requests; once warm, memory may not grow
MONOLITHIC = 0.1  # as many requests over the monolithic API as so much of those over gRPC
LONGEST_S = 7200.0


class Attack:
    """Clients that send malformed requests, each as a process, launched when this object is made.

    Args:
        stack: whom they send them to.
        requests: how many of them, by port.
        seed: of the random numbers; each client has its own.
    """

    def __init__(self, stack: Stack, requests: dict[str, int], seed: int, clients: int = CLIENTS) -> None:
        self._sent = dict.fromkeys(range(clients), 0)
        self._found: dict[int, dict[str, Any]] = {}
        self._said: list[str] = []
        self._total = max(1, sum(requests.values()))
        self._clients = []
        for number in range(clients):
            share = {port: count // clients + (number < count % clients) for port, count in requests.items()}
            order = Order(stack.grpc, stack.http, stack.monolithic, share, seed * 1000 + number)
            command = [sys.executable, "-m", "lipsync_server.reliability.attacker"]
            command.append(json.dumps(dataclasses.asdict(order)))
            self._clients.append(Child(command, os.environ, functools.partial(self._take, number)))

    @property
    def done(self) -> float:
        """The part of the requests that was sent."""
        return sum(self._sent.values()) / self._total

    @property
    def running(self) -> bool:
        return any(client.exit_status is None for client in self._clients)

    def result(self) -> dict[str, Any]:
        """Counts by "port|kind|answer", those that should not be, examples of them, and the slowest answer."""
        counts: Counter[str] = Counter()
        unexpected: Counter[str] = Counter()
        for found in self._found.values():
            counts.update(found["counts"])
            unexpected.update(found["unexpected"])
        for number, client in enumerate(self._clients):
            client.wait(10)
            if number not in self._found:
                unexpected[f"client {number} ended with {client.exit_status}: {' '.join(self._said[-3:])}"] += 1
        examples = [example for found in self._found.values() for example in found["examples"]]
        slowest = max((found["slowest_s"] for found in self._found.values()), default=0.0)
        return {
            "requests": sum(counts.values()),
            "counts": dict(sorted(counts.items())),
            "unexpected": dict(unexpected),
            "examples": examples[:20],
            "slowest_s": slowest,
        }

    def stop(self) -> None:
        """End what still runs."""
        for client in self._clients:
            if client.exit_status is None:
                client.signal(9)

    def _take(self, number: int, line: str) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            self._said.append(line.strip())
            return
        if "sent" in found:
            self._sent[number] = found["sent"]
        else:
            self._found[number] = found
            self._sent[number] = sum(found["counts"].values())


@contextlib.contextmanager
def attacking(stack: Stack, requests: dict[str, int], seed: int) -> Iterator[Attack]:
    """An attack that ends with the block."""
    attack = Attack(stack, requests, seed)
    try:
        yield attack
    finally:
        attack.stop()


async def attacks(stack: Stack, reference: Reference, requests: int, seed: int, settle_s: float = SETTLE_S) -> Any:
    """Send so many malformed requests over gRPC, as many over HTTP, and a tenth of it over the monolithic API.

    Returns:
        plain numbers: see `Attack.result`, `GoodCallers.result`, and the levels before, warm, at the end and after.
    """
    planned = {"grpc": requests, "http": requests, "monolithic": int(requests * MONOLITHIC)}
    parts = stack.parts()
    async with served_well(stack.grpc, reference) as seen:
        levels = Levels()
        with watched(functools.partial(Level.of, stack.pid), levels, 1.0):
            await asyncio.sleep(settle_s)
            processes = {"before": memory_by_process(stack)}
            with attacking(stack, planned, seed) as attack:
                began = time.monotonic()
                telling = asyncio.create_task(_told(attack))
                marks = await answered(attack, LONGEST_S)
                telling.cancel()
                found = attack.result()
            ended = time.monotonic()
            await asyncio.sleep(settle_s)
            processes["after"] = memory_by_process(stack)
    after = stack.parts()
    measured = {
        "before": levels.between(began - settle_s / 2, began),
        "warm": levels.between(marks["warm"], marks["quarter"]),
        "end": levels.between(marks["last"], ended),
        "after": levels.between(ended + settle_s / 2, ended + settle_s),
    }
    return found | {
        "seconds": ended - began,
        "ended": sorted(name for name, pid in parts.items() if after.get(name) != pid),
        "started_again": sum("started again" in line for line in stack.said),
        "good": seen.result(reference),
        "levels": {name: (some or Levels([Level.of(stack.pid)])).median() for name, some in measured.items()},
        "processes_mb": processes,
        "peak_mb": max(level.memory_mb for level in levels),
    }


async def answered(attack: Attack, longest_s: float) -> dict[str, float]:
    """Wait for the end of an attack; returns when each of `POINTS` was reached, in monotonic seconds."""
    marks: dict[str, float] = {}
    deadline = time.monotonic() + longest_s
    while attack.running and time.monotonic() < deadline:
        for name, point in POINTS.items():
            if attack.done >= point and name not in marks:
                marks[name] = time.monotonic()
        await asyncio.sleep(0.2)
    return {name: marks.get(name, time.monotonic()) for name in POINTS}


async def _told(attack: Attack) -> None:
    """Progress, for people."""
    for tenth in range(1, 10):
        while attack.done * 10 < tenth:  # noqa: ASYNC110
            await asyncio.sleep(1)
        note(f"{time.strftime('%H:%M:%S')} attacks: {tenth * 10} %")
