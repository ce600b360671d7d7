"""What a benchmark run has found so far, kept in a folder, so that a long run can be made in pieces."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("nvidia-pytriton", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "numpy", "opencv-python-headless")


class Results:
    """`results[part][preset]`, written down after each part. Parts of another machine or other versions are dropped."""

    def __init__(self, folder: Path, *, keep: bool, quick: bool, gpu: str | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "results.json"
        self.facts: dict[str, Any] = machine() | {"quick": quick, "GPU configs": gpu or "none"}
        self.parts: dict[str, dict[str, Any]] = {}
        if keep and self._path.exists():
            stored = json.loads(self._path.read_text())
            if stored["facts"] == self.facts:
                self.parts = stored["parts"]

    def has(self, part: str, preset: str) -> bool:
        return preset in self.parts.get(part, {})

    def add(self, part: str, preset: str, found: Any) -> None:
        self.parts.setdefault(part, {})[preset] = found
        self._path.write_text(json.dumps({"facts": self.facts, "parts": self.parts}, indent=1))


def machine() -> dict[str, str]:
    """Date, processors and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    units = [
        name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16") if name in flags
    ]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "CPU": f"{cpu}, {len(os.sched_getaffinity(0))} cores ({', '.join(units)})",
        "GPU": _gpus(),
        "Python": platform.python_version(),
        "versions": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
    }


def _gpus() -> str:
    if not shutil.which("nvidia-smi"):
        return "none"
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    listing = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    return "; ".join(listing.split("\n")).strip("; ") or "none"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def spread(values: list[float], digits: int = 1) -> str:
    """Median and range, for people."""
    middle, low, high = (f"{x:.{digits}f}" for x in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"
