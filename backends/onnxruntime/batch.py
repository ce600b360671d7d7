"""Run requests of one dynamic batch together: joined, in parts that fit the CPU's caches, and split again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

Tensors = dict[str, np.ndarray]
Run = Callable[[Tensors], Tensors]


def run_in_parts(run: Run, inputs: Tensors, part: int | None) -> Tensors:
    """`run` over the first axis in parts of at most `part` rows (None: all at once)."""
    rows = len(next(iter(inputs.values())))
    if part is None or rows <= part:
        return run(inputs)
    pieces = [run({name: x[at : at + part] for name, x in inputs.items()}) for at in range(0, rows, part)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def run_joined(run: Run, requests: Sequence[Tensors], part: int | None) -> Iterator[Tensors | Exception]:
    """Each request's outputs, or its own failure, in order.

    Requests run as one batch; if that fails they are run again one by one, so that one bad request harms no other.
    """
    if len(requests) > 1:
        joined = {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}
        try:
            outputs = run_in_parts(run, joined, part)
        except Exception:
            pass  # below, each for itself
        else:
            ends = np.cumsum([len(next(iter(request.values()))) for request in requests])[:-1]
            split = {name: np.split(x, ends) for name, x in outputs.items()}
            for index in range(len(requests)):
                yield {name: rows[index] for name, rows in split.items()}
            return
    for request in requests:
        try:
            yield run_in_parts(run, request, part)
        except Exception as error:
            yield error
