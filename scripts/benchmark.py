"""Measures the product against the reference way and against its own floor, on this machine, in one run.

    python scripts/benchmark.py [--quick] [--presets low,medium]

Contenders take turns, so that a machine that slows down slows all of them. Writes docs/benchmarks.md and a plot.
Nothing else should run meanwhile: the load average before the run stands in the report.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console
import stages
import mel
from avatar_source import AvatarSource
from benchmarking.memory import server_memory_mb
from benchmarking.report import Report, write_report
from benchmarking.streams import live, overload
from build import build
from lipsync_client import Client, Control
from local_pipeline import LocalPipeline
from package_avatar import package_avatar
from serving import Ports, ServerConfig, TritonServer

CHUNKS = (1, 4, 8, 16, 25, 32)
out = Console()


@dataclass
class Series:
    """Repeated measurements of one thing."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.1f} ({min(self.values):.1f} to {max(self.values):.1f})"


def frames_per_second(render: Callable[[], int]) -> float:
    begin = time.perf_counter()
    return render() / (time.perf_counter() - begin)


def packed_repository(folder: Path, presets: list[str]) -> Path:
    """A copy of the built repository with the demo avatar once more for each preset, as `demo-<preset>`."""
    build(stages.REPOSITORY, report=out.print)
    ignored = shutil.ignore_patterns("__pycache__", ".*cache")
    repository = Path(shutil.copytree(stages.REPOSITORY, folder / "model_repository", ignore=ignored))
    source = AvatarSource.read(stages.ROOT / "avatars" / "demo")
    for preset in presets:
        unet = full_width(source, folder) if preset == "high" else source.unet
        package_avatar(replace(source, id=f"demo-{preset}", preset=preset, unet=unet), repository)
    return repository


def full_width(source: AvatarSource, folder: Path) -> str:
    """A full-width network for the demo's footage, with random weights: for its speed only."""
    import torch
    from export_onnx import export_unet
    from networks import UNet

    torch.manual_seed(0)
    path = folder / "full.onnx"
    onnx.save(export_unet(UNet("full").eval()), path)
    return str(path)


def measure_throughput(server: TritonServer, repository: Path, preset: str, rounds: int, report: Report) -> None:
    """Reference, floor and every chunk size in turn, `rounds` times."""
    from benchmarking.reference import Reference

    speech, avatar = stages.read_sample(), f"demo-{preset}"
    source = AvatarSource.read(stages.ROOT / "avatars" / "demo")
    filterbank = mel.load_filterbank(repository / "mel_preprocess" / "1" / "filterbank.npy")
    width = "full" if preset == "high" else "half"
    reference, floor = Reference(source, filterbank, width), LocalPipeline(repository, avatar)
    with Client(server.grpc_url, timeout=120) as client:

        def served(chunk: int) -> int:
            part = speech[: 640 * max(32, 2 * chunk)]
            return sum(1 for _ in client.render(part, avatar=avatar, first_chunk=chunk, chunk=chunk))

        contenders: dict[str, Callable[[], int]] = {
            "reference (PyTorch eager)": lambda: len(reference.render(speech, 6)),
            "floor (in one process, chunks of 25)": lambda: sum(1 for _ in floor.render(speech[: 640 * 75], chunk=25)),
            "served, chunks of 25, long": lambda: sum(
                1 for _ in client.render(speech[: 640 * 75], avatar=avatar, first_chunk=25, chunk=25)
            ),
        } | {f"served, chunks of {chunk}": lambda chunk=chunk: served(chunk) for chunk in CHUNKS}
        measured = {name: Series() for name in contenders}
        for run in contenders.values():
            run()  # warm
        for _ in range(rounds):
            for name, run in contenders.items():
                measured[name].values.append(frames_per_second(run))
        report.throughput[preset] = measured
        report.first_frame[preset] = Series([first_frame_ms(client, speech, avatar) for _ in range(3 * rounds)])
        report.stages[preset] = stage_times(client, speech, avatar)


def first_frame_ms(client: Client, speech: NDArray[np.float32], avatar: str) -> float:
    """Time to the first frame of a speech whose first chunk is 4 frames."""
    begin = time.perf_counter()
    frames = client.render(speech[: 640 * 4], avatar=avatar, first_chunk=4)
    next(frames)
    elapsed = (time.perf_counter() - begin) * 1000
    frames.close()
    return elapsed


def stage_times(client: Client, speech: NDArray[np.float32], avatar: str) -> dict[int, list[float]]:
    """Median TIMINGS_MS for each chunk size, one request at a time."""
    result = {}
    for chunk in CHUNKS:
        start, audio = client.timeline().slice(speech, 40, chunk)
        asked = {"avatar": avatar, "audio_start": start, "audio_end": False, "first_frame": 40, "frame_count": chunk}
        rows = [client.infer(audio, **asked).timings_ms for _ in range(5)]  # type: ignore[arg-type]
        result[chunk] = [statistics.median(getattr(row, name) for row in rows) for name in rows[0]._fields]
    return result


def measure_streams(server: TritonServer, preset: str, seconds: float, report: Report) -> None:
    speech, avatar = stages.read_sample(), f"demo-{preset}"
    for streams in range(1, 9):
        load = live(server.grpc_url, avatar, speech, streams, seconds)
        out.print(f"  {preset}: {streams} live streams: {load.late} of {load.frames} frames late")
        report.streams.setdefault(preset, []).append(load)
        if load.late > load.frames // 2:
            break  # more streams only queue longer
    report.overload[preset] = overload(server.grpc_url, avatar, speech, 128, min(seconds, 15))


def measure_avatars(
    folder: Path, repository: Path, server: TritonServer, counts: tuple[int, ...], report: Report
) -> None:
    """Load time and memory with further avatars, copies of the demo under other ids."""
    source = AvatarSource.read(stages.ROOT / "avatars" / "demo")
    with Control(server.grpc_url, key=server.control_key) as control:
        loaded = 0
        for count in counts:
            while loaded < count:
                loaded += 1
                package_avatar(replace(source, id=f"copy{loaded}"), repository)
                begin = time.perf_counter()
                control.load(f"copy{loaded}")
                report.load_seconds.values.append(time.perf_counter() - begin)
            report.memory_mb[loaded + 1] = server_memory_mb(server.pid)


def request_bytes(server: TritonServer) -> int:
    """Bytes of a request for 24 frames from the middle of a speech."""
    with Client(server.grpc_url) as client:
        _, audio = client.timeline().slice(stages.read_sample(), 60, 24)
    return audio.nbytes + 400  # the other inputs and gRPC's framing are below 400 bytes


def machine() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    names = ("nvidia-pytriton", "onnxruntime", "openvino", "torch", "numpy", "opencv-python-headless")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "CPU": f"{cpu}, {len(os.sched_getaffinity(0))} cores",
        "Python": platform.python_version(),
        "versions": ", ".join(f"{name} {version(name)}" for name in names),
        "load average before": Path("/proc/loadavg").read_text().split()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter streams: 3 minutes instead of 15")
    parser.add_argument("--presets", default="low,medium,high", help="which to measure (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=stages.ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args()
    presets = options.presets.split(",")
    report = Report(machine=machine(), quick=options.quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out.print("packing the demo avatar with each preset")
        repository = packed_repository(folder, presets)
        for preset in presets:
            config = ServerConfig(ports=Ports(0, 0, 0), load=(f"demo-{preset}",), required=(f"demo-{preset}",))
            with TritonServer(repository, config) as server:
                out.print(f"{preset}: throughput")
                measure_throughput(server, repository, preset, 2 if options.quick else 5, report)
                measure_streams(server, preset, 6 if options.quick else 60, report)
                report.loaded_mb[preset] = server_memory_mb(server.pid)
                report.request_bytes = request_bytes(server)
                report.perf_analyzer[preset] = perf_analyzer(server, preset, options.quick)
        with TritonServer(repository, ServerConfig(ports=Ports(0, 0, 0), load=("lipsync_ensemble",))) as server:
            measure_avatars(folder, repository, server, (0, 4) if options.quick else (0, 4, 19), report)
    write_report(report, options.output)
    out.print(f"Wrote {options.output}")


def perf_analyzer(server: TritonServer, preset: str, quick: bool) -> str:
    """perf_analyzer's own summary of the ensemble and its steps."""
    command = [
        *(sys.executable, str(stages.ROOT / "scripts" / "perf_analyzer.py")),
        *("--server", server.grpc_url, "--model", f"demo-{preset}", "--measurement-interval", "3000"),
        *("--concurrency-range", "1" if quick else "1:4:1", "--stability-percentage", "50"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return result.stdout if result.returncode == 0 else f"perf_analyzer failed: {result.stdout[-500:]}"


if __name__ == "__main__":
    main()
