"""Part `soak`: two live streams for an hour, a rendering every minute, a burst of malformed requests every minute."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from functools import partial
from typing import Any

from lipsync_client.console import note
from lipsync_server.benchmark.memory import watched
from lipsync_server.reliability.attacks import Attack, answered
from lipsync_server.reliability.good import Reference, served_well
from lipsync_server.reliability.levels import Level, Levels, memory_by_process
from lipsync_server.reliability.stack import Stack

__all__ = ["growth", "soak"]

EVERY_S = 60.0
SAMPLE_S = 10.0
BURST_S = 600.0  # that one attack may take
BURST = {"grpc": 100, "http": 100, "monolithic": 20}


async def soak(stack: Stack, reference: Reference, minutes: float, seed: int) -> Any:
    """Run for so many minutes.

    Returns:
        plain numbers: what the good callers saw, the attacks' answers, the levels over time, and their growth in the
        last half, from its first quarter to its last.
    """
    began, counts, unexpected, examples = time.monotonic(), Counter[str](), Counter[str](), []
    parts, number = stack.parts(), 0
    sample_s = min(SAMPLE_S, minutes * 60 / 40)
    async with served_well(stack.grpc, reference, render_every_s=EVERY_S) as seen:
        levels = Levels()
        with watched(partial(Level.of, stack.pid), levels, sample_s):
            while (left := began + minutes * 60 - time.monotonic()) > 0:
                number += 1
                due = time.monotonic() + min(EVERY_S, left)
                burst = await _burst(stack, seed + number)
                counts.update(burst["counts"])
                unexpected.update(burst["unexpected"])
                examples += burst["examples"]
                if number % 5 == 0:
                    note(f"{time.strftime('%H:%M:%S')} soak: {(time.monotonic() - began) / 60:.0f} min, {_said(stack)}")
                await asyncio.sleep(max(0.0, due - time.monotonic()))
    after = stack.parts()
    return {
        "minutes": (time.monotonic() - began) / 60,
        "good": seen.result(reference),
        "attacks": number,
        "requests": sum(counts.values()),
        "counts": dict(sorted(counts.items())),
        "unexpected": dict(unexpected),
        "examples": examples[:20],
        "ended": sorted(name for name, pid in parts.items() if after.get(name) != pid),
        "quarters": [levels.quarter(quarter).median() for quarter in range(4)],
        "growth": growth(levels),
        "samples": [round(level.memory_mb, 1) for level in levels],
    }


def _said(stack: Stack) -> str:
    return ", ".join(f"{name} {memory:.0f}" for name, memory in memory_by_process(stack).items()) + " MB"


def growth(levels: Levels) -> dict[str, float]:
    """Of each figure in the last half: its lower quartile in that half's last quarter over that in its first, less 1.

    The lower quartile is what it holds between the attacks: a message of 120 MB that is read and refused makes a peak
    of several times that, more often and for longer where the machine is busy.
    """
    middle = levels[0].time + (levels[-1].time - levels[0].time) / 2
    half = levels.between(middle, levels[-1].time)
    first, last = half.quarter(0), half.quarter(3)
    found = {}
    for name in ("memory_mb", "descriptors", "shared_mb"):
        before, after = (statistics.quantiles([getattr(one, name) for one in some], n=4)[0] for some in (first, last))
        found[name] = after / before - 1 if before else 0.0
    return found


async def _burst(stack: Stack, seed: int) -> dict[str, Any]:
    """One attack, to its end."""
    attack = Attack(stack, BURST, seed, clients=1)
    try:
        await answered(attack, BURST_S)
        return await asyncio.to_thread(attack.result)
    finally:
        attack.stop()
