"""Notes for people: progress, what was done, what comes next. They are no results, and `--quiet` silences them."""

from __future__ import annotations

from rich.console import Console

__all__ = ["note", "notes"]

notes = Console(stderr=True)


def note(text: str) -> None:
    """One line, as it is."""
    notes.print(text, highlight=False, markup=False, soft_wrap=True)
