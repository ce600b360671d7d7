"""Measures the product against the reference way and against its own floor, on this machine, in one run.

Contenders take turns, so that a machine that slows down slows all of them. Nothing else should run meanwhile. A
report and its plot can be written from what has been measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lipsync_client.console import note
from lipsync_server import home
from lipsync_server.benchmark import OF_PRESETS, PARTS, PRESETS, QUICK
from lipsync_server.benchmark.analyzer import perf_analyzer
from lipsync_server.benchmark.budget import frame_budget_ms
from lipsync_server.benchmark.costs import COPIED, avatar_costs, composite_ms, request_bytes
from lipsync_server.benchmark.live import Seen, live_sessions
from lipsync_server.benchmark.memory import server_memory_mb, watched
from lipsync_server.benchmark.packed import FULL_WIDTH, packed_repository
from lipsync_server.benchmark.quick import quick_look
from lipsync_server.benchmark.report import Plot, write_report
from lipsync_server.benchmark.results import Results
from lipsync_server.benchmark.streams import live_until_late, overload
from lipsync_server.benchmark.throughput import Renderer, first_frames_ms, stage_times, throughput
from lipsync_server.repository.gpu import write_gpu_models
from lipsync_server.repository.source import AvatarSource
from lipsync_server.serving import Ports, ServerConfig, TritonServer
from lipsync_server.serving.server_settings import GpuConfigs

SPEAKING = 2  # live sessions at once


class Benchmark:
    """One run. Each part returns what it found as plain numbers."""

    def __init__(
        self,
        repository: Path,
        quick: bool,
        gpu: GpuConfigs | None,
        reference: Callable[[AvatarSource, str], Renderer] | None,
    ) -> None:
        self.repository, self.quick, self.gpu, self.reference = repository, quick, gpu, reference
        if gpu:
            write_gpu_models(repository)

    @contextmanager
    def server(self, avatar: str) -> Iterator[TritonServer]:
        config = ServerConfig(ports=Ports(0, 0, 0), load=(avatar,), required=(avatar,), gpu_configs=self.gpu)
        with TritonServer(self.repository, config) as server:
            yield server

    def quick_look(self, preset: str) -> dict[str, Any]:
        with self.server(f"demo-{preset}") as server:
            return quick_look(server.grpc_url, self.repository, f"demo-{preset}", preset)

    def throughput(self, preset: str) -> dict[str, Any]:
        rounds = 2 if self.quick else 3
        with self.server(f"demo-{preset}") as server:
            return {
                "frames_s": throughput(
                    server.grpc_url,
                    self.repository,
                    preset,
                    rounds,
                    quick=self.quick,
                    gpu=self.gpu,
                    reference=self.reference,
                ),
                "first_frame_ms": first_frames_ms(server.grpc_url, preset, 5 * rounds),
                "stages_ms": stage_times(server.grpc_url, preset),
                "request_bytes": request_bytes(server.grpc_url, f"demo-{preset}"),
                "core_ms": frame_budget_ms(server.pid, server.grpc_url, f"demo-{preset}", 5 if self.quick else 15),
            }

    def streams(self, preset: str) -> dict[str, Any]:
        speech, avatar = home.read_sample(), f"demo-{preset}"
        seconds, longest = (5, 5) if self.quick else (15, 60)
        with self.server(avatar) as server:
            loads = live_until_late(server.grpc_url, avatar, speech, seconds, longest)
            sessions: Seen = asyncio.run(live_sessions(server.grpc_url, avatar, speech, SPEAKING, 2.0, 2 * seconds))
            memory: list[float] = []
            with watched(partial(server_memory_mb, server.pid), memory):
                overloaded = overload(server.grpc_url, avatar, speech, 128, 2 * seconds / 3)
        return {"loads": loads, "sessions": sessions.row(), "overload": overloaded, "memory_mb": max(memory)}

    def perf_analyzer(self, preset: str) -> list[dict[str, Any]]:
        with self.server(f"demo-{preset}") as server:
            return perf_analyzer(server.grpc_url, f"demo-{preset}", 25, "1" if self.quick else "1:2:1")

    def composite(self, _: str) -> dict[str, list[float]]:
        return composite_ms(10 if self.quick else 30)

    def avatars(self, _: str) -> dict[str, Any]:
        with self.server(f"demo-{COPIED}") as server:
            return avatar_costs(server, self.repository, (0, 4) if self.quick else (0, 4, 19))


def measure(
    folder: Path,
    presets: list[str],
    parts: list[str],
    *,
    output: Path | None = None,
    resume: bool = False,
    quick: bool = False,
    gpu: GpuConfigs | None = None,
    reference: Callable[[AvatarSource, str], Renderer] | None = None,
    full_width: Callable[[Path], None] | None = None,
    plot: Plot | None = None,
) -> Results:
    """Measure, and write the report again after each part.

    Args:
        folder: for packed avatars and results.
        presets, parts: which ones; presets of full width need `full_width`.
        output: the report, Markdown; None: none is written.
        resume: keep the results in `folder`, measure what is missing.
        quick: fewer rounds, shorter streams.
        gpu: `cuda` or `tensorrt`: networks in FP16 on the GPUs.
        reference: makes the renderer of the reference way, see `throughput`.
        full_width: writes a network of full width, see `packed_repository`.
        plot: draws a picture for the report.

    Raises:
        ValueError: there is no such preset or part.
    """
    _check("preset", presets, (*PRESETS, *FULL_WIDTH))
    _check("part", parts, (*PARTS, QUICK))
    results = Results(folder, keep=resume, quick=quick, gpu=gpu)
    note("packing the demo avatar with each preset")
    repository = packed_repository(folder, _presets_needed(presets, parts), full_width)
    benchmark = Benchmark(repository, quick, gpu, reference)
    for part in parts:
        for preset in presets if part in OF_PRESETS else ["all"]:
            if not results.has(part, preset):
                note(f"{time.strftime('%H:%M:%S')} {part}, {preset}")
                work: Callable[[str], Any] = getattr(benchmark, "quick_look" if part == QUICK else part)
                results.add(part, preset, work(preset))
                if output:
                    write_report(results, output, plot)
    if output:
        note(f"Wrote {output}")
    return results


def _presets_needed(presets: list[str], parts: list[str]) -> list[str]:
    """Those that any of the parts has served."""
    measured = presets if set(parts) & set(OF_PRESETS) else []
    return list(dict.fromkeys([*measured, *([COPIED] if "avatars" in parts else [])]))


def _check(what: str, names: list[str], allowed: tuple[str, ...]) -> None:
    for name in names:
        if name not in allowed:
            raise ValueError(f"{what} {name!r} is not one of {', '.join(allowed)}")
