"""What the benchmark found, as Markdown. Parts that were not measured are left out."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lipsync_server.benchmark import QUICK
from lipsync_server.benchmark.results import Results, spread
from lipsync_server.benchmark.throughput import CHUNKS, FLOOR, REFERENCE

LONG_CHUNK = "25"
DASH = "-"
Found = dict[str, Any]
Plot = Callable[[Found, Path], None]  # draws what the part streams found, into a PNG file

INTRODUCTION = """
Written by `make benchmark`: contenders in turn on the same machine, medians and (lowest to highest). The reference is
SyncTalk_2D's way (PyTorch eager, frame by frame, whole frames pasted and encoded); the floor is our own stages in one
process without a server, on the same files. Everything served goes from audio to JPEG through gRPC, at the demo
avatar's 1280x720. `turbo` is the half-width network in INT8 with a distilled last stage, `low` the same with its own,
`medium` in BF16 or FP32, whichever is faster, `high` the full width in INT8, here with random weights: only its speed
is meant."""


def write_report(results: Results, path: Path, plot: Plot | None = None) -> None:
    """Write the report `path` (Markdown), and a plot of the live streams beside it where `plot` draws one."""
    facts = "".join(f"- {name}: {value}\n" for name, value in results.facts.items() if name != "quick")
    kind = " With `--quick`: few rounds, short streams.\n" if results.facts["quick"] else "\n"
    sections: dict[str, Callable[[Found], str]] = {
        QUICK: _quick,
        "throughput": _throughput,
        "streams": lambda found: _streams(found, _drawn(plot, found, path.with_suffix(".png"))),
        "composite": _composite,
        "avatars": _avatars,
        "perf_analyzer": _analyzer,
    }
    text = f"# Benchmarks\n{INTRODUCTION}{kind}\n{facts}"
    if "throughput" in results.parts:
        text += _summary(results.parts["throughput"], results.parts.get("streams", {}))
    for part, write in sections.items():
        if part in results.parts:
            text += write(results.parts[part])
    path.write_text(text, encoding="utf-8")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _summary(speeds: Found, streams: Found) -> str:
    rows = []
    for preset in speeds:
        rates = {name: statistics.median(values) for name, values in speeds[preset]["frames_s"].items()}
        alive, memory = DASH, DASH
        if preset in streams:
            alive = str(max((load["streams"] for load in streams[preset]["loads"] if not load["late"]), default=0))
            memory = f"{streams[preset]['memory_mb']:.0f}"
        rows.append(
            [
                preset,
                f"{rates[LONG_CHUNK]:.1f}",
                f"{rates[LONG_CHUNK] / rates[REFERENCE]:.1f}" if REFERENCE in rates else DASH,
                f"{rates[LONG_CHUNK] / rates[FLOOR]:.2f}",
                f"{statistics.median(speeds[preset]['first_frame_ms']):.0f}",
                alive,
                memory,
            ]
        )
    head = ["preset", "frames/s", "x reference", "x floor", "first frame, ms", "live streams in time", "MB under load"]
    return "\n## In short\n\n" + _table(head, rows)


def _quick(found: Found) -> str:
    rows = []
    for preset, look in found.items():
        alive = max((load["streams"] for load in look["loads"] if not load["late"]), default=0)
        rate = statistics.median(look["frames_s"][LONG_CHUNK])
        rows.append(
            [preset, f"{rate:.1f}", f"{statistics.median(look['first_frame_ms']):.0f}", str(alive), look["way"]]
        )
    head = ["preset", "frames/s", "first frame, ms", "live streams in time", "computed in"]
    return "\n## A short look\n\n" + _table(head, rows)


def _throughput(found: Found) -> str:
    text = "\n## Throughput\n\nFrames a second.\n\n"
    known = {name for measured in found.values() for name in measured["frames_s"]}
    contenders = [name for name in (REFERENCE, FLOOR, *map(str, CHUNKS)) if name in known]
    rows = []
    for name in contenders:
        label = name if name in (REFERENCE, FLOOR) else f"served, {name} frames a request"
        rows.append([label, *(spread(measured["frames_s"][name]) for measured in found.values())])
    text += _table(["", *found], rows)
    rows = []
    for preset, measured in found.items():
        rates = {name: statistics.median(values) for name, values in measured["frames_s"].items()}
        rows.append([preset, *(f"{rates[str(chunk)] / rates[FLOOR]:.2f}" for chunk in CHUNKS)])
    text += "\nAs a part of the floor, which has 25 frames a request:\n\n"
    text += _table(["preset", *map(str, CHUNKS)], rows)
    text += "\nTime to the first frame (a first request of 4 frames, its audio at hand), ms:\n\n"
    text += _table(["preset", "ms"], [[preset, spread(m["first_frame_ms"], 0)] for preset, m in found.items()])
    text += "\nWhat the server says of single requests, ms:\n\n"
    rows = [
        [preset, chunk, *(f"{value:.1f}" for value in times)]
        for preset, measured in found.items()
        for chunk, times in measured["stages_ms"].items()
    ]
    text += _table(["preset", "frames", "audio", "encoder and U-Net", "composite", "total"], rows)
    text += _budget(found)
    sizes = max(measured["request_bytes"] for measured in found.values())
    return text + f"\nA request for 24 frames takes {sizes / 1000:.1f} KB on the wire.\n"


def _budget(found: Found) -> str:
    """Core-milliseconds a frame by process."""
    text = "\nWhat a frame costs, in milliseconds of one core (25 frames a request, 4 callers):\n\n"
    costs = {
        preset: {_role(name, preset): cost for name, cost in measured["core_ms"].items()}
        for preset, measured in found.items()
    }
    rows = [
        [preset, *(f"{cost.get(role, 0):.2f}" for role in ("triton", *ROLES)), f"{sum(cost.values()):.1f}"]
        for preset, cost in costs.items()
    ]
    return text + _table(["preset", "triton", *ROLES, "together"], rows)


def _drawn(plot: Plot | None, found: Found, path: Path) -> str:
    """The plot as Markdown; "" where nothing draws."""
    if plot is None:
        return ""
    plot(found, path)
    return f"\n![Latency and frames in time against live streams]({path.name})\n"


def _streams(found: Found, picture: str) -> str:
    text = (
        "\n## Live streams\n\nEach stream asks for 8 frames every 0.32 s, which are shown from 0.32 s after that.\n\n"
    )
    rows = [
        [
            preset,
            f"{load['streams']} for {load['seconds']} s",
            *(f"{load[name]:.0f}" for name in ("p50", "p95", "p99")),
            f"{load['late']} of {load['frames']}",
        ]
        for preset, measured in found.items()
        for load in measured["loads"]
    ]
    text += _table(["preset", "streams", "p50 ms", "p95 ms", "p99 ms", "late frames"], rows)
    text += picture
    text += "\nTwo `LiveSession`s that speak (speech comes at twice its pace) and one that listens:\n\n"
    head = ["preset", "talking frames", "late", "handed out late, p99 ms", "first frame ms (longest)"]
    head += ["silent after an interruption, ms (longest)"]
    text += _table(head, [[preset, measured["sessions"]] for preset, measured in found.items()])
    text += "\nOverload, 128 callers that never wait:\n\n"
    rows = []
    for preset, measured in found.items():
        load = measured["overload"]
        counts = [str(load["answered"]), str(load["refused"])]
        rows.append([preset, f"{load['frames_s']:.1f}", *counts, f"{measured['memory_mb']:.0f}"])
    head = ["preset", "frames/s served", "requests answered", "refused as UNAVAILABLE", "server and stages, MB"]
    return text + _table(head, rows)


def _composite(found: Found) -> str:
    sizes = found["all"]
    first, *_rest = sizes.values()
    rows = [
        [size, spread(values, 2), f"{statistics.median(values) / statistics.median(first):.2f}"]
        for size, values in sizes.items()
    ]
    text = "\n## Composite\n\nA frame's paste and JPEG on one core; the mouth is as large in both.\n\n"
    return text + _table(["frame", "ms", "ratio"], rows)


def _avatars(found: Found) -> str:
    memory, seconds = found["all"]["memory"], found["all"]["load_s"]
    one = memory["0"]
    rows = [
        [str(int(count) + 1), f"{mb:.0f}", f"{(mb - one) / int(count):.0f}" if int(count) else DASH]
        for count, mb in memory.items()
    ]
    text = (
        "\n## Avatars\n\nMemory of server and stages with avatars of the demo's size (`medium`), each asked once.\n\n"
    )
    text += _table(["avatars", "MB", "MB for each further one"], rows)
    return text + f"\nLoading one takes {spread(seconds, 2)} s.\n"


def _analyzer(found: Found) -> str:
    text = "\n## perf_analyzer\n\n25 frames a request. Steps: ms in the queue + in the step.\n\n"
    rows = []
    for preset, runs in found.items():
        for run in runs:
            steps = {_role(name, preset): times for name, times in run["steps"].items()}
            times = [f"{steps[role][0]:.0f} + {sum(steps[role][1:]):.0f}" if role in steps else DASH for role in ROLES]
            latency = [f"{run[name]:.0f}" for name in ("p50", "p95", "p99")]
            rows.append([preset, str(run["callers"]), f"{25 * run['requests_s']:.1f}", *latency, *times])
    return text + _table(["preset", "callers", "frames/s", "p50 ms", "p95 ms", "p99 ms", *ROLES], rows)


ROLES = ("mel_preprocess", "audio_encoder", "lipsync", "composite")


def _role(model: str, preset: str) -> str:
    return model.removeprefix(f"demo-{preset}_").removesuffix("_int8")
