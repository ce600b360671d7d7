"""Runs the requests of one dynamic batch together: joins them, shares the rows among the CPU's cores, splits them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]
Run = Callable[[Tensors], Tensors]


def run_in_parts(run: Run, inputs: Tensors, pool: Executor | None) -> Tensors:
    """Run over the first axis: each row alone, in parallel on `pool`'s workers; without a pool, all rows at once."""
    rows = len(next(iter(inputs.values())))
    if pool is None or rows <= 1:
        return run(inputs)
    pieces = list(pool.map(run, ({name: x[at : at + 1] for name, x in inputs.items()} for at in range(rows))))
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def run_joined(run: Run, requests: Sequence[Tensors], pool: Executor | None) -> Iterator[Tensors | Exception]:
    """Yield each request's outputs, or its own error, in order.

    The requests run as one batch. If that fails, they run again one by one, so that a bad request affects no other.
    """
    if len(requests) > 1:
        joined = {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}
        try:
            outputs = run_in_parts(run, joined, pool)
        except Exception:  # noqa: S110 (they run one by one below)
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
