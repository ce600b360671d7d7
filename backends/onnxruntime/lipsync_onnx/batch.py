"""Run requests of one dynamic batch together: joined, in parts that share out the CPU's cores, and split again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]
Run = Callable[[Tensors], Tensors]


def run_in_parts(run: Run, inputs: Tensors, pool: Executor | None) -> Tensors:
    """`run` over the first axis: each row alone, as many at a time as `pool` has workers; without a pool all as one."""
    rows = len(next(iter(inputs.values())))
    if pool is None or rows <= 1:
        return run(inputs)
    pieces = list(pool.map(run, ({name: x[at : at + 1] for name, x in inputs.items()} for at in range(rows))))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def run_joined(run: Run, requests: Sequence[Tensors], pool: Executor | None) -> Iterator[Tensors | Exception]:
    """Each request's outputs, or its own failure, in order.

    Requests run as one batch; if that fails they are run again one by one, so that one bad request harms no other.
    """
    if len(requests) > 1:
        joined = {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}
        try:
            outputs = run_in_parts(run, joined, pool)
        except Exception:  # noqa: S110 (below, each for itself)
            pass
        else:
            ends = np.cumsum([len(next(iter(request.values()))) for request in requests])[:-1]
            split = {name: np.split(x, ends) for name, x in outputs.items()}
            for index in range(len(requests)):
                yield {name: rows[index] for name, rows in split.items()}
            return
    for request in requests:
        try:
            yield run_in_parts(run, request, pool)
        except Exception as error:
            yield error
