"""What `scripts/benchmark.py` found, as Markdown and a plot."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark import Series
    from benchmarking.streams import Load


@dataclass
class Report:
    """Everything measured in one run; keys are presets where nothing else is said."""

    machine: dict[str, str]
    quick: bool
    throughput: dict[str, dict[str, Series]] = field(default_factory=dict)  # frames a second by contender
    first_frame: dict[str, Series] = field(default_factory=dict)  # ms
    stages: dict[str, dict[int, list[float]]] = field(default_factory=dict)  # ms by chunk size
    streams: dict[str, list[Load]] = field(default_factory=dict)
    overload: dict[str, tuple[float, int, int]] = field(default_factory=dict)
    loaded_mb: dict[str, float] = field(default_factory=dict)
    perf_analyzer: dict[str, str] = field(default_factory=dict)
    memory_mb: dict[int, float] = field(default_factory=dict)  # by avatars loaded
    load_seconds: Series = field(default_factory=lambda: _series())
    request_bytes: int = 0


def _series() -> Series:
    from benchmark import Series

    return Series()


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _throughput(report: Report) -> str:
    text = ""
    for preset, measured in report.throughput.items():
        reference = measured["reference (PyTorch eager)"].median
        floor = measured["floor (in one process, chunks of 25)"].median
        rows = [
            [name, str(series), f"{series.median / reference:.1f}", f"{series.median / floor:.2f}"]
            for name, series in measured.items()
        ]
        text += f"\n### {preset}\n\n"
        text += _table(["what", "frames/s, median (range)", "x reference", "x floor"], rows)
        text += f"\nTime to first frame (4 frames, their audio at hand): {report.first_frame[preset]} ms.\n\n"
        stages = [[str(chunk), *(f"{value:.1f}" for value in times)] for chunk, times in report.stages[preset].items()]
        text += _table(["frames a request", "audio ms", "inference ms", "composite ms", "total ms"], stages)
    return text


def _streams(report: Report) -> str:
    rows = [
        [
            preset,
            str(load.streams),
            f"{load.percentile(50):.0f}",
            f"{load.percentile(95):.0f}",
            f"{load.percentile(99):.0f}",
            f"{load.late} of {load.frames}",
        ]
        for preset, loads in report.streams.items()
        for load in loads
    ]
    text = _table(["preset", "live streams", "p50 ms", "p95 ms", "p99 ms", "late frames"], rows)
    text += "\nOverload, 128 callers that never wait:\n\n"
    return text + _table(
        ["preset", "frames/s served", "requests answered", "refused as UNAVAILABLE"],
        [[p, f"{fps:.1f}", str(answered), str(refused)] for p, (fps, answered, refused) in report.overload.items()],
    )


def _plot(report: Report, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for preset, loads in report.streams.items():
        streams = [load.streams for load in loads]
        left.plot(streams, [load.percentile(95) for load in loads], marker="o", label=f"{preset}, p95")
        right.plot(
            streams,
            [25 * n * (1 - load.late / load.frames) for n, load in zip(streams, loads, strict=True)],
            marker="o",
            label=preset,
        )
    left.axhline(320, color="grey", linestyle=":", label="a chunk's time")
    left.set(xlabel="live streams", ylabel="latency of a chunk of 8, ms", yscale="log")
    right.set(xlabel="live streams", ylabel="frames in time, a second")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def write_report(report: Report, path: Path) -> None:
    """`path` (Markdown) and a plot of the same name beside it."""
    plot = path.with_suffix(".png")
    _plot(report, plot)
    facts = "".join(f"- {name}: {value}\n" for name, value in report.machine.items())
    memory = [[str(count), f"{mb:.0f}"] for count, mb in report.memory_mb.items()]
    loaded = [[preset, f"{mb:.0f}"] for preset, mb in report.loaded_mb.items()]
    perf = "".join(f"\n### {preset}\n\n```\n{text.strip()}\n```\n" for preset, text in report.perf_analyzer.items())
    path.write_text(
        f"""# Benchmarks

Written by `make benchmark`{" (quick)" if report.quick else ""}: contenders in turn on the same machine, medians with
their range. The reference is SyncTalk_2D's way (PyTorch eager, frame by frame, whole frames pasted and encoded); the
floor is our own stages in one process without a server, on the same files.

{facts}
## Throughput
{_throughput(report)}
## Live streams

Each stream asks for 8 frames every 0.32 s; its frames are shown from 0.32 s after that. A frame that comes later is
late.

{_streams(report)}
![Latency and frames in time against live streams]({plot.name})

## Memory and size

Server and stages after the load above (proportional set size):

{_table(["preset", "MB"], loaded)}
With more avatars loaded (the demo's own size, medium):

{_table(["avatars", "MB"], memory)}
Loading an avatar: {report.load_seconds} s. A request for 24 frames: {report.request_bytes / 1000:.1f} KB.

## perf_analyzer
{perf}""",
        encoding="utf-8",
    )
