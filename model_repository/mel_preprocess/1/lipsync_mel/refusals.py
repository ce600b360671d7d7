"""The codes of refusals that clients tell apart. A code stands before its sentence, in brackets: "[overloaded] 64 ..".

Triton knows few status codes and uses some of them for several things, so that a status alone does not tell. This
module needs no other, so that a client can import it where nothing of a server is installed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

OVERLOADED = "overloaded"  # as many requests are in flight as the server takes: the same request may succeed soon

_CODED = re.compile(r"\[([a-z_]+)\] (.*)", re.DOTALL)


class Refusal(NamedTuple):
    """A refusal as it was sent. `code` is "" where the sentence has none."""

    code: str
    sentence: str


def coded(code: str, sentence: str) -> str:
    """A refusal's text as it is sent."""
    return f"[{code}] {sentence}"


def parse(text: str) -> Refusal:
    """The code and the sentence of a text that was received."""
    found = _CODED.fullmatch(text)
    return Refusal(found[1], found[2]) if found else Refusal("", text)
