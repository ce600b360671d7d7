"""A part of a network's picture."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray


class Span(NamedTuple):
    """Rows or columns of a stage's picture: the first, and the one behind the last."""

    begin: int
    end: int

    def grown(self, by: int, size: int) -> Span:
        return Span(max(0, self.begin - by), min(size, self.end + by))

    def joined(self, other: Span) -> Span:
        return Span(min(self.begin, other.begin), max(self.end, other.end))

    def halved(self) -> Span:
        return Span(self.begin // 2, -(-self.end // 2))

    def doubled(self) -> Span:
        return Span(2 * self.begin, 2 * self.end)


class Window(NamedTuple):
    """A part of a stage's picture."""

    rows: Span
    columns: Span

    def of(self, pictures: NDArray[Any]) -> NDArray[Any]:
        """The part of pictures of the shape [.., height, width]."""
        return pictures[..., slice(*self.rows), slice(*self.columns)]

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.end - self.rows.begin, self.columns.end - self.columns.begin

    @property
    def area(self) -> int:
        return self.shape[0] * self.shape[1]

    @classmethod
    def whole(cls, size: int) -> Window:
        return cls(Span(0, size), Span(0, size))

    def grown(self, by: int, size: int) -> Window:
        return Window(self.rows.grown(by, size), self.columns.grown(by, size))

    def joined(self, other: Window | None) -> Window:
        return Window(self.rows.joined(other.rows), self.columns.joined(other.columns)) if other else self

    def halved(self) -> Window:
        return Window(self.rows.halved(), self.columns.halved())

    def doubled(self) -> Window:
        return Window(self.rows.doubled(), self.columns.doubled())
