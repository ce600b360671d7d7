"""Policies of a registry: which avatar is evicted first, and which GPU one is placed on. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lipsync_client.control.states import AvatarOverview

__all__ = ["Candidate", "Counters", "choose_gpu", "eviction_order"]


class Candidate(NamedTuple):
    """An avatar that may be evicted.

    Attributes:
        id: its name.
        uses: answered requests.
        last_used: time of the last request by the server's clock, in seconds; 0 if there was none.
    """

    id: str
    uses: int
    last_used: float


def eviction_order(candidates: Iterable[Candidate], policy: str) -> list[str]:
    """Ids in the order of eviction.

    "lfu" sorts by the number of uses, then by the last use. "lru" sorts by the last use, then by the number of uses.
    The fewest uses and the earliest use come first.
    """
    if policy == "lfu":
        return [one.id for one in sorted(candidates, key=lambda one: (one.uses, one.last_used, one.id))]
    return [one.id for one in sorted(candidates, key=lambda one: (one.last_used, one.uses, one.id))]


@dataclass
class Counters:
    """Counts the answered requests of each avatar over all its loads. Triton's own counters restart with every load."""

    _before: dict[str, int] = field(default_factory=dict)  # from earlier loads
    _seen: dict[str, int] = field(default_factory=dict)  # from the current one

    def update(self, overview: Iterable[AvatarOverview]) -> None:
        """Add the server's current counters."""
        for avatar in overview:
            name, now = avatar.state.id, avatar.stats.requests if avatar.stats else 0
            if now < (seen := self._seen.get(name, 0)):
                self._before[name] = self._before.get(name, 0) + seen
            self._seen[name] = now

    def uses(self, avatar: str) -> int:
        """Answered requests of an avatar, as observed so far: from its load before the first update on."""
        return self._before.get(avatar, 0) + self._seen.get(avatar, 0)


def choose_gpu(
    gpus: Sequence[int],
    placed: Mapping[str, tuple[int, int]],
    policy: str,
    turn: int,
    *,
    needed: int = 0,
    limit: float = math.inf,
) -> int:
    """Choose the GPU for one more avatar, among those with room for it if there are any. Returns its number.

    Args:
        gpus: numbers to choose from.
        placed: GPU and memory (any unit) of each avatar that is loaded.
        policy: "round_robin", one after the other, or "least_loaded", by memory, then by number of avatars.
        turn: how many avatars were placed so far.
        needed: its memory.
        limit: memory that the avatars on one GPU may take together.
    """

    def load(gpu: int) -> tuple[int, int]:
        there = [memory for where, memory in placed.values() if where == gpu]
        return sum(there), len(there)

    gpus = [gpu for gpu in gpus if load(gpu)[0] + needed <= limit] or gpus
    return gpus[turn % len(gpus)] if policy == "round_robin" else min(gpus, key=load)
