"""Runs the parts, each with a server of its own, and keeps what they find."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lipsync_client.console import note
from lipsync_server import home
from lipsync_server.benchmark.results import machine
from lipsync_server.reliability.attacks import attacks
from lipsync_server.reliability.bounds import bounds
from lipsync_server.reliability.good import Reference
from lipsync_server.reliability.kills import kills
from lipsync_server.reliability.report import write_report
from lipsync_server.reliability.soak import soak
from lipsync_server.reliability.speed import speed
from lipsync_server.reliability.stack import Stack
from lipsync_server.repository.build import build

__all__ = ["Sizes", "measure"]


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        requests: malformed ones over gRPC, and as many over HTTP.
        kills: how often each process is killed.
        rounds: of the speed.
        soak: minutes.
        seed: of the random numbers.
    """

    requests: int
    kills: int
    rounds: int
    soak: float
    seed: int

    @classmethod
    def quick(cls, seed: int) -> Sizes:
        """To see whether it works."""
        return cls(requests=400, kills=1, rounds=1, soak=2.0, seed=seed)


def measure(parts: list[str], sizes: Sizes, output: Path, results: Path) -> bool:
    """Measure the parts, in the order given, and write the report again after each.

    Args:
        parts: of `reliability.PARTS`.
        sizes: how much is done.
        output: the report, Markdown.
        results: what earlier runs have found, JSON; the parts that are measured replace theirs.

    Returns:
        whether every bound of these parts was kept.
    """
    build(home.repository())
    found: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    for part in parts:
        note(f"{time.strftime('%H:%M:%S')} {part}")
        found[part] = {"machine": machine(), "sizes": asdict(sizes), "found": _measured(part, sizes)}
        results.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        write_report(found, output, results.name)
    kept = True
    for part in parts:
        for bound in bounds(part, found[part]["found"]):
            kept = kept and bound.kept
            note(f"{part}: {bound.what}: {bound.value} ({bound.allowed}): {'kept' if bound.kept else 'FAILED'}")
    return kept


def _measured(part: str, sizes: Sizes) -> dict[str, Any]:
    """What a part finds."""
    if part == "speed":
        return asyncio.run(speed(home.repository(), sizes.rounds))
    reference = Reference(home.repository())
    with tempfile.TemporaryDirectory() as folder, Stack(home.repository(), Path(folder)) as stack:
        if part == "attacks":
            return dict(asyncio.run(attacks(stack, reference, sizes.requests, sizes.seed)))
        if part == "kills":
            return dict(asyncio.run(kills(stack, reference, sizes.kills)))
        return dict(asyncio.run(soak(stack, reference, sizes.soak, sizes.seed)))
