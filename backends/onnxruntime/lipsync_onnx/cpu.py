"""Which kind of CPU this is: what decides how fast a network runs in one arithmetic compared with another."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path

# The instructions that engines choose their code by, as Linux names them.
UNITS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16")
ARM_UNITS = ("asimddp", "i8mm", "bf16", "sve")
HELD_DOWN = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # environment variables that keep oneDNN from using some of them


def cpu_kind(environment: Mapping[str, str] = os.environ, listing: Path = Path("/proc/cpuinfo")) -> str:
    """A short hash of the CPU's model, of its instructions that matter, and of how the environment limits them."""
    lines = [line.partition(":") for line in listing.read_text().splitlines()] if listing.exists() else []
    stated = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    model = stated.get("model name") or stated.get("CPU part") or platform.machine()
    flags = (stated.get("flags") or stated.get("Features") or "").split()
    limits = [environment.get(name, "") for name in HELD_DOWN]
    text = "\n".join([model, *(unit for unit in (*UNITS, *ARM_UNITS) if unit in flags), *limits])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
