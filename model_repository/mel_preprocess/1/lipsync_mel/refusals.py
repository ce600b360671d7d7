"""Codes of refusals that clients must tell apart. A code stands before its sentence, in brackets: "[overloaded] 64 ..".

Triton has few status codes and uses some of them for several things, so a status alone is ambiguous. This module
imports no other one, so a client can import it without the server's packages.
"""

from __future__ import annotations

import re
from typing import NamedTuple

OVERLOADED = "overloaded"  # the limit of requests in flight is reached: the same request may succeed soon
LOAD_FAILED = "load_failed"  # its avatar was not loaded, and cannot be

_CODED = re.compile(r"\[([a-z_]+)\] (.*)", re.DOTALL)


class Refusal(NamedTuple):
    """A refusal as it was sent. `code` is "" if the sentence has none."""

    code: str
    sentence: str


def coded(code: str, sentence: str) -> str:
    """The text of a refusal, with its code."""
    return f"[{code}] {sentence}"


def parse(text: str) -> Refusal:
    """Split a received text into code and sentence."""
    found = _CODED.fullmatch(text)
    return Refusal(found[1], found[2]) if found else Refusal("", text)
