"""What must hold: the bounds of each part, and whether what was found keeps them."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

__all__ = ["Bound", "bounds"]

GROWTH = 0.05  # of memory under attack, once warm
SOAK_GROWTH = 0.02  # in the last half of a soak
GATEWAY_COST = 0.05  # of the throughput
LATENCY_MS = 2.0  # that the gateway adds to a request for one frame
IDLE_COST = 0.05  # of throughput and latency

Found = dict[str, Any]


class Bound(NamedTuple):
    """Something that must hold: what it is, what was found, what is allowed, and whether it is kept."""

    what: str
    value: str
    allowed: str
    kept: bool


def bounds(part: str, found: Found) -> list[Bound]:
    """The bounds of a part, of what it found."""
    return {"attacks": _attacks, "kills": _kills, "speed": _speed, "soak": _soak}[part](found)


def _none(what: str, count: int) -> Bound:
    return Bound(what, str(count), "0", count == 0)


def _at_most(what: str, value: float, limit: float) -> Bound:
    return Bound(what, f"{100 * value:+.1f} %", f"at most {100 * limit:+.0f} %", value <= limit)


def _good(found: Found) -> list[Bound]:
    good = found["good"]
    return [
        _none(
            "frames of good callers that were lost, doubled or wrong", good["lost"] + good["doubled"] + good["wrong"]
        ),
        _none("good requests that were given up", len(good["failures"])),
    ]


def _answered(found: Found) -> list[Bound]:
    hung = sum(count for answer, count in found["counts"].items() if answer.endswith("|no answer in time"))
    return [
        _none("processes that ended", len(found["ended"])),
        _none("malformed requests without an answer in time", hung),
        _none("other answers than the stated ones", sum(found["unexpected"].values())),
    ]


def _attacks(found: Found) -> list[Bound]:
    memory = {name: level["memory_mb"] for name, level in found["levels"].items()}
    return [
        *_answered(found),
        *_good(found),
        _at_most("growth of memory from warm to the end", memory["end"] / memory["warm"] - 1, GROWTH),
        _at_most("memory afterwards, against warm", memory["after"] / memory["warm"] - 1, GROWTH),
    ]


def _kills(found: Found) -> list[Bound]:
    silent = sum(not one["unready"] for one in found["kills"])
    return [*_good(found), _none("kills after which it never said that it was not ready", silent)]


def _speed(found: Found) -> list[Bound]:
    rates = {name: statistics.median(found[name]["frames_s"]) for name in ("direct", "gateway", "idle")}
    times = {name: statistics.median(found[name]["p50_ms"]) for name in rates}
    added = times["gateway"] - times["direct"]
    return [
        _at_most("throughput that the gateway costs", 1 - rates["gateway"] / rates["direct"], GATEWAY_COST),
        Bound(
            "what it adds to a request for one frame",
            f"{added:.2f} ms",
            f"at most {LATENCY_MS:g} ms",
            added <= LATENCY_MS,
        ),
        _at_most("throughput that 1,500 idle connections cost", 1 - rates["idle"] / rates["gateway"], IDLE_COST),
        _at_most("latency that they cost", times["idle"] / times["gateway"] - 1, IDLE_COST),
    ]


def _soak(found: Found) -> list[Bound]:
    growth = found["growth"]
    return [
        *_answered(found),
        *_good(found),
        _at_most("growth of memory in the last half", growth["memory_mb"], SOAK_GROWTH),
        _at_most("growth of open file descriptors", growth["descriptors"], SOAK_GROWTH),
        _at_most("growth of files in /dev/shm", growth["shared_mb"], SOAK_GROWTH),
    ]
