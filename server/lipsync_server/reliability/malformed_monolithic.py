"""Malformed requests over the monolithic API."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

from lipsync_server.gateway.monolithic_proto import METHODS, SERVICE
from lipsync_server.reliability.kinds import Kinds
from lipsync_server.reliability.malformed_grpc import GrpcRequest, changed

__all__ = ["MONOLITHIC"]

QUIET = np.zeros(640, np.float32)
MONOLITHIC: Kinds[GrpcRequest] = Kinds()


def call(method: str, **values: Any) -> GrpcRequest:
    return GrpcRequest(f"/{SERVICE}/{method}", METHODS[method](**values).SerializeToString())


def infer(**changes: Any) -> GrpcRequest:
    """A request for one frame, with changes."""
    values = {"model_id": "demo", "raw_audio": QUIET.tobytes(), "batch_size": 1, "sample_rate": 16_000}
    return call("InferBatchComposite", **values | changes)


@MONOLITHIC.add("wrong values", weight=3)
def _values(random: Random) -> GrpcRequest:
    changes: tuple[dict[str, Any], ...] = (
        *({"model_id": name} for name in ("", "nobody", "../x", "x" * 10_000, "lipsync", "demo\0")),
        *({"batch_size": size} for size in (0, -1, 33, 2**31 - 1)),
        *({"raw_audio": data} for data in (b"", b"12345", b"\xff" * 400)),
        {"raw_audio": np.array([np.nan, np.inf], "<f4").tobytes()},
        {"raw_audio": b"", "audio_features": bytes(32_768)},
        *({"start_frame_idx": start} for start in (-1, -(2**31))),
        *({"sample_rate": rate} for rate in (-5, 1, 7999, 192_001, 2**31 - 1)),
    )
    return infer(**random.choice(changes))


@MONOLITHIC.add("models that are none, to load and unload")
def _models(random: Random) -> GrpcRequest:
    name = random.choice(("", "nobody", "../x", "\0", "x" * 10_000))
    return call(random.choice(("LoadModel", "UnloadModel")), model_id=name)


@MONOLITHIC.add("bytes that are no message")
def _noise(random: Random) -> GrpcRequest:
    method = random.choice(("InferBatchComposite", "GetModelStats", "ListModels", "Health"))
    return GrpcRequest(f"/{SERVICE}/{method}", random.randbytes(random.choice((1, 46, 1000))))


@MONOLITHIC.add("changed bytes of a good request", also=("success",))
def _changed(random: Random) -> GrpcRequest:
    return GrpcRequest(f"/{SERVICE}/InferBatchComposite", changed(random, infer().data))
