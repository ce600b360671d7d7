"""What a request to a network may be: all of its inputs there, with as many rows each, and not too many.

Triton itself checks this where a model takes batches. Where it takes none (the audio encoder, whose rows belong
together) Triton knows of no rows: it would hand on any number, and inputs that do not fit each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from lipsync_onnx.session import number, parameters


class RowsError(ValueError):
    """The request cannot be run; the message names the input, its rows and what is allowed."""


@dataclass(frozen=True)
class Rows:
    """The rows that one request may have.

    Attributes:
        inputs: names of the inputs, all of which a request must have.
        least, most: how many rows; `most` is None where nothing but Triton bounds them.
    """

    inputs: tuple[str, ...]
    least: int = 1
    most: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Rows:
        """As a model's config states them: `min_rows` and `max_rows`, or `max_batch_size` where it takes batches.

        Raises:
            ValueError: a parameter is no whole number.
        """
        stated, names = parameters(config), tuple(tensor["name"] for tensor in config["input"])
        if config["max_batch_size"] > 0:
            return cls(names, most=config["max_batch_size"])
        most = number(stated, "max_rows", 0)
        return cls(names, number(stated, "min_rows", 1), most or None)

    def check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Raises RowsError if a request's inputs, by name, cannot be run together."""
        for name in self.inputs:
            if name not in inputs:
                raise RowsError(f"{name} is missing")
        counts = {name: len(inputs[name]) for name in self.inputs}
        count = counts[self.inputs[0]]
        for name, other in counts.items():
            if other != count:
                raise RowsError(f"{name} has {other} rows and {self.inputs[0]} {count}: they must have as many")
        if count < self.least or (self.most is not None and count > self.most):
            allowed = f"from {self.least} to {self.most}" if self.most else f"at least {self.least}"
            raise RowsError(f"{self.inputs[0]} has {count} rows: {allowed} are allowed in a request")
