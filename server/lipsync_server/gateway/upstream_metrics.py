"""The metrics of the Triton behind a gateway, and the GPUs that are in them."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Gpu", "fetched", "gpus_in"]

ANSWER_S = 3.0  # that Triton may take
FIGURES = {  # Triton's names for them
    "nv_gpu_utilization": "utilization",
    "nv_gpu_memory_used_bytes": "memory_used_bytes",
    "nv_gpu_memory_total_bytes": "memory_total_bytes",
}


@dataclass
class Gpu:
    """A GPU of a server.

    Attributes:
        uuid: NVIDIA's name for it.
        utilization: from 0 to 1.
        memory_used_bytes, memory_total_bytes: of all programs that use it.
    """

    uuid: str
    utilization: float = 0.0
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0


def fetched(address: str) -> bytes:
    """The metrics of a server on this machine, as Prometheus reads them; nothing where nobody answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}/metrics", timeout=ANSWER_S) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


def gpus_in(metrics: bytes) -> list[Gpu]:
    """The GPUs, in the order of the metrics."""
    found: dict[str, Gpu] = {}
    for family in text_string_to_metric_families(metrics.decode("utf-8", errors="replace")):
        for sample in family.samples:
            if sample.name in FIGURES and (uuid := sample.labels.get("gpu_uuid")):
                gpu = found.setdefault(uuid, Gpu(uuid))
                kind = float if sample.name == "nv_gpu_utilization" else int
                setattr(gpu, FIGURES[sample.name], kind(sample.value))
    return list(found.values())
