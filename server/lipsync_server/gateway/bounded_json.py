"""JSON from strangers: the size of its structure is bounded before Python's parser sees it."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from lipsync_server.gateway.refusal import invalid

__all__ = ["parse"]

MAX_DEPTH = 16  # a nested VISUAL_FRAMES has 9
MAX_MARKS = 50_000  # brackets, braces, quotes and escapes; a flat array of any length has two
OUTSIDE = re.compile(rb'["\[\]{}]')
INSIDE = re.compile(rb'["\\]')


def parse(text: bytes) -> Any:
    """The value of a JSON text. Raises Refused for what is no JSON, or nested deeper or wider than a request needs."""
    _check_structure(text)
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # also for an integer of thousands of digits
        raise invalid(f"the request is no JSON: {str(error)[:100]}", "unparsable") from None


def _check_structure(text: bytes) -> None:
    depth = marks = at = 0
    quoted = False
    while found := (INSIDE if quoted else OUTSIDE).search(text, at):
        at, mark = found.end(), found[0]
        marks += 1
        if marks > MAX_MARKS:
            raise invalid(f"the request's JSON has more than {MAX_MARKS} arrays, objects and names", "json size")
        if mark == b"\\":
            at += 1
        elif mark == b'"':
            quoted = not quoted
        else:
            depth += 1 if mark in b"[{" else -1
        if depth > MAX_DEPTH:
            raise invalid(f"the request's JSON is nested deeper than {MAX_DEPTH} levels", "json depth")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")
