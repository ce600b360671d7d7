"""Measures the product against the reference way and against its own floor, on this machine, in one run.

    python scripts/benchmark.py                                  # everything: about 17 minutes on two cores
    python scripts/benchmark.py --quick                          # fewer rounds, shorter streams
    python scripts/benchmark.py --parts throughput --presets low --work W      # one piece; more pieces with --resume
    python scripts/benchmark.py --gpu tensorrt                   # on a GPU machine: docs/gpu.md

Contenders take turns, so that a machine that slows down slows all of them. Nothing else should run meanwhile. Writes
docs/benchmarks.md and its plot from what has been measured.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
import stages
from benchmarking.analyzer import perf_analyzer
from benchmarking.costs import avatar_costs, composite_ms, request_bytes
from benchmarking.live import Seen, live_sessions
from benchmarking.memory import watched
from benchmarking.packed import packed_repository
from benchmarking.report import write_report
from benchmarking.results import Results
from benchmarking.streams import live_until_late, overload
from benchmarking.throughput import first_frames_ms, stage_times, throughput
from gpu_models import write_gpu_models
from serving import Ports, ServerConfig, TritonServer

PARTS = ("throughput", "streams", "perf_analyzer", "composite", "avatars")
PRESETS = ("low", "medium", "high")
SPEAKING = 2  # live sessions at once
out = Console()


class Benchmark:
    """One run. Each part returns what it found as plain numbers."""

    def __init__(self, repository: Path, quick: bool, gpu: str | None) -> None:
        self.repository, self.quick, self.gpu = repository, quick, gpu
        if gpu:
            write_gpu_models(repository)

    @contextmanager
    def server(self, avatar: str) -> Iterator[TritonServer]:
        config = ServerConfig(ports=Ports(0, 0, 0), load=(avatar,), required=(avatar,), gpu_configs=self.gpu)
        with TritonServer(self.repository, config) as server:
            yield server

    def throughput(self, preset: str) -> dict[str, Any]:
        rounds = 2 if self.quick else 3
        with self.server(f"demo-{preset}") as server:
            return {
                "frames_s": throughput(server.grpc_url, self.repository, preset, rounds, self.quick, self.gpu),
                "first_frame_ms": first_frames_ms(server.grpc_url, preset, 5 * rounds),
                "stages_ms": stage_times(server.grpc_url, preset),
                "request_bytes": request_bytes(server.grpc_url, f"demo-{preset}"),
            }

    def streams(self, preset: str) -> dict[str, Any]:
        speech, avatar = stages.read_sample(), f"demo-{preset}"
        seconds, longest = (5, 5) if self.quick else (15, 60)
        with self.server(avatar) as server:
            loads = live_until_late(server.grpc_url, avatar, speech, seconds, longest)
            sessions: Seen = asyncio.run(live_sessions(server.grpc_url, avatar, speech, SPEAKING, 2.0, 2 * seconds))
            with watched(server.pid) as memory:
                overloaded = overload(server.grpc_url, avatar, speech, 128, 2 * seconds / 3)
        return {"loads": loads, "sessions": sessions.row(), "overload": overloaded, "memory_mb": max(memory)}

    def perf_analyzer(self, preset: str) -> list[dict[str, Any]]:
        with self.server(f"demo-{preset}") as server:
            return perf_analyzer(server.grpc_url, f"demo-{preset}", 25, "1" if self.quick else "1:2:1")

    def composite(self, _: str) -> dict[str, list[float]]:
        return composite_ms(10 if self.quick else 30)

    def avatars(self, _: str) -> dict[str, Any]:
        with self.server("demo-medium") as server:
            return avatar_costs(server, self.repository, (0, 4) if self.quick else (0, 4, 19))


def chosen(text: str, allowed: tuple[str, ...], parser: argparse.ArgumentParser) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in allowed:
            parser.error(f"{name!r} is not one of {', '.join(allowed)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter streams")
    parser.add_argument("--presets", default=",".join(PRESETS), help="which to measure (default: %(default)s)")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="folder for packed avatars and results (default: a temporary one)")
    parser.add_argument("--resume", action="store_true", help="keep the results in --work, measure what is missing")
    parser.add_argument("--gpu", choices=("cuda", "tensorrt"), help="networks in FP16 on the GPUs")
    parser.add_argument("--output", type=Path, default=stages.ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args()
    presets, parts = chosen(options.presets, PRESETS, parser), chosen(options.parts, PARTS, parser)
    if options.resume and not options.work:
        parser.error("--resume needs --work, the folder of an earlier run")
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = options.work or Path(temporary)
        results = Results(folder, keep=options.resume, quick=options.quick, gpu=options.gpu)
        out.print("packing the demo avatar with each preset")
        packed = presets if parts != ["avatars"] else ["medium"]
        benchmark = Benchmark(packed_repository(folder, packed), options.quick, options.gpu)
        for part in parts:
            for preset in presets if part in ("throughput", "streams", "perf_analyzer") else ["all"]:
                if not results.has(part, preset):
                    out.print(f"{time.strftime('%H:%M:%S')} {part}, {preset}")
                    measure: Callable[[str], Any] = getattr(benchmark, part)
                    results.add(part, preset, measure(preset))
                    write_report(results, options.output)
    out.print(f"Wrote {options.output}")


if __name__ == "__main__":
    main()
