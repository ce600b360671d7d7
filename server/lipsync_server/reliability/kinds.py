"""Kinds of malformed requests: how each is made, how often it is chosen, and what may answer it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

__all__ = ["Kind", "Kinds"]

M = TypeVar("M")


@dataclass(frozen=True)
class Kind(Generic[M]):
    """A kind of malformed request.

    Attributes:
        name: for people.
        make: one of its requests; the same for the same random numbers.
        weight: how often it is chosen; 1 as usual.
        also: answers that are right for it, beside those that are right for all.
    """

    name: str
    make: Callable[[Random], M]
    weight: float
    also: frozenset[str]


class Kinds(list[Kind[M]]):
    """The kinds of one port."""

    def add(
        self, name: str, *, weight: float = 1.0, also: tuple[str, ...] = ()
    ) -> Callable[[Callable[[Random], M]], Callable[[Random], M]]:
        """A decorator of the function that makes a kind's requests."""

        def added(make: Callable[[Random], M]) -> Callable[[Random], M]:
            self.append(Kind(name, make, weight, frozenset(also)))
            return make

        return added

    def in_turn(self, random: Random, count: int) -> list[Kind[M]]:
        """So many kinds by chance, each at least once where there is room for all."""
        first = random.sample(self, min(count, len(self)))
        return first + random.choices(self, [kind.weight for kind in self], k=count - len(first))
