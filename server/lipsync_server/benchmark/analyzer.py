"""perf_analyzer's figures for an ensemble and its steps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

STEP = re.compile(r"^  (\S+), version:")
TIMES = re.compile(r"queue (\d+) usec \+ compute input (\d+) usec \+ compute infer (\d+) usec \+ compute output (\d+)")


def perf_analyzer(url: str, avatar: str, frames: int, callers: str) -> list[dict[str, Any]]:
    """One entry for each number of callers in the range `callers` ("1:4:1"): requests a second, latency in ms (p50,
    p95, p99), and for each step its milliseconds in queue, input, inference and output.

    Raises:
        RuntimeError: perf_analyzer failed; the message is its own.
    """
    command = [
        *(sys.executable, "-m", "lipsync_client.cli.main", "perf"),
        *("--server", url, "--model", avatar, "--frames", str(frames), "--concurrency-range", callers),
        *("--measurement-interval", "3000", "--stability-percentage", "50", "--json"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr.strip()[-500:])
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def parsed(text: str) -> list[dict[str, Any]]:
    """What perf_analyzer printed, as numbers; see `perf_analyzer`."""
    found = []
    for block in text.split("Request concurrency: ")[1:]:
        latency = {f"p{q}": int(ms) / 1000 for q, ms in re.findall(r"^    p(50|95|99) latency: (\d+)", block, re.M)}
        rate = re.search(r"Throughput: ([\d.]+)", block)
        steps: dict[str, list[float]] = {}
        step = ""
        for line in block.splitlines():
            step = match[1] if (match := STEP.match(line)) else step
            if step and (times := TIMES.search(line)):
                steps[step] = [int(us) / 1000 for us in times.groups()]
        found.append(
            {"callers": int(block.split()[0]), "requests_s": float(rate[1]) if rate else 0.0, **latency, "steps": steps}
        )
    return found
