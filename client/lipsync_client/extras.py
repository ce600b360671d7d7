"""Packages that only an extra of this distribution installs: who lacks one is told the command that installs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lipsync_client.errors import LipsyncError

__all__ = ["MissingExtra", "missing_extra", "needs"]


class MissingExtra(LipsyncError, ModuleNotFoundError):
    """A package is not installed; the text says how to install it."""


def missing_extra(error: ModuleNotFoundError, extras: Sequence[str]) -> str:
    """The sentence for a missing package that an extra of this distribution installs."""
    return f"This needs {error.name}: pip install 'lipsync-triton[{','.join(extras)}]'"


@contextmanager
def needs(*extras: str) -> Iterator[None]:
    """Around the imports of a module that needs extras. Raises MissingExtra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if isinstance(error, MissingExtra) or (error.name or "").startswith("lipsync_"):
            raise  # said already, or a fault of ours
        raise MissingExtra(missing_extra(error, extras), name=error.name) from None
