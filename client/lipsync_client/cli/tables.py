"""Measurements and tables of the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from lipsync_client.answers import Frame, Timings
from lipsync_client.control.states import AvatarOverview, AvatarState, AvatarStats, ModelState

__all__ = [
    "RenderStats",
    "avatars_table",
    "models_table",
    "overview_table",
    "render_table",
    "slow_advice",
    "stats_table",
]


class RenderStats:
    """Passes frames on and measures: their number, the time to the first, the whole time, and the server's times.

    Args:
        frames: the frames; the clock starts when this object is made.
        each: called once for each frame.
        preset: of the avatar.
    """

    def __init__(self, frames: Iterable[Frame], each: Callable[[], None], preset: str = "") -> None:
        self._frames = frames
        self.preset = preset
        self._each = each
        self._started = time.perf_counter()
        self.count = 0
        self.first_s = self.last_s = 0.0
        self.requests: list[Timings] = []

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._frames:
            self.last_s = time.perf_counter() - self._started
            if not self.count:
                self.first_s = self.last_s
            self.count += 1
            if not self.requests or frame.timings_ms is not self.requests[-1]:
                self.requests.append(frame.timings_ms)
            self._each()
            yield frame

    def figures(self, fps: int) -> dict[str, Any]:
        """The measurements: seconds, frames a second, and the server's milliseconds for each request (p50, p95)."""
        video_s = self.count / fps
        times = np.array(self.requests)
        stages = {}
        for column, name in enumerate(Timings._fields):
            half, most = np.percentile(times[:, column], (50, 95))
            stages[name] = {"p50": round(float(half), 1), "p95": round(float(most), 1)}
        return {
            "frames": self.count,
            "video_s": round(video_s, 3),
            "wall_s": round(self.last_s, 3),
            "frames_per_s": round(self.count / self.last_s, 1),
            "times_real_time": round(video_s / self.last_s, 2),
            "first_frame_ms": round(self.first_s * 1000),
            "server_ms": stages,
        }


def render_table(figures: dict[str, Any]) -> Table:
    """The table of `RenderStats.figures`."""
    table = Table(show_header=False, box=None)
    for name, value in (
        ("frames", f"{figures['frames']}"),
        ("video", f"{figures['video_s']:.2f} s"),
        ("wall time", f"{figures['wall_s']:.2f} s, to the last frame"),
        ("speed", f"{figures['frames_per_s']:.1f} frames/s, {figures['times_real_time']:.2f} x real time"),
        ("first frame", f"after {figures['first_frame_ms']:.0f} ms"),
    ):
        table.add_row(name, value)
    for name, times in figures["server_ms"].items():
        table.add_row(f"server: {name}", f"p50 {times['p50']:.1f} ms, p95 {times['p95']:.1f} ms a request")
    return table


def slow_advice(figures: dict[str, Any], preset: str) -> str:
    """Why a rendering was slower than real time and what to do; "" if it was not.

    Args:
        figures: see `RenderStats.figures`.
        preset: of the avatar.
    """
    if figures["times_real_time"] >= 1:
        return ""
    stages = {name: times["p50"] for name, times in figures["server_ms"].items() if name != "total"}
    slowest = max(stages, key=lambda name: stages[name])
    faster = (
        "its preset turbo is the fastest: end other programs, or use a machine with more cores or a GPU"
        if preset == "turbo"
        else f"its preset is {preset or 'unknown'}, and turbo is the fastest: `lipsync avatars distil` makes it"
    )
    return (
        f"That was slower than real time: the server made {figures['frames_per_s']:.0f} frames/s, mostly waiting for "
        f"{slowest}. The video is complete, but live speech would stutter. Of this avatar, {faster}. "
        "`lipsync bench --quick` says what a machine carries."
    )


def models_table(models: list[ModelState]) -> Table:
    table = Table("model", "state", "reason", box=None)
    for model in models:
        table.add_row(escape(model.name), model.state or "not loaded", escape(model.reason))
    return table


def avatars_table(avatars: list[AvatarState]) -> Table:
    table = Table("avatar", "state", "reason", box=None)
    for avatar in avatars:
        table.add_row(escape(avatar.id), "loaded" if avatar.loaded else "not loaded", escape(avatar.reason))
    return table


def overview_table(avatars: list[AvatarOverview]) -> Group:
    """A table for a terminal of 80 columns, with the reasons of failures below it."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("avatar", "state", "device", "MiB", "requests", "failed", "ms: all/queue/net", "last used"):
        table.add_column(column, no_wrap=True)
    for one in avatars:
        cells = []
        if (stats := one.stats) and one.gpus is not None:
            cells = [
                f"GPU {', '.join(map(str, one.gpus))}" if one.gpus else "CPU",
                f"{one.memory_mb}" if one.memory_mb is not None else "?",
                f"{stats.requests}",
                f"{stats.failures}",
                f"{stats.request_ms:.0f}/{stats.queue_ms:.0f}/{stats.compute_ms:.0f}",
                f"{stats.last_used.astimezone():%m-%d %H:%M}" if stats.last_used else "never",
            ]
        table.add_row(escape(one.state.id), one.state.phase, *cells)
    reasons = [escape(f"{one.state.id}: {one.state.reason}") for one in avatars if one.state.reason]
    return Group(table, *reasons)


def stats_table(avatar: str, stats: AvatarStats) -> Table:
    table = Table(show_header=False, box=None)
    for name, value in (
        ("avatar", escape(avatar)),
        ("requests", f"{stats.requests}"),
        ("failures", f"{stats.failures}"),
        ("frames", f"{stats.frames}, including the warm-up"),
        ("request", f"{stats.request_ms:.1f} ms on average, all stages"),
        ("U-Net: queue", f"{stats.queue_ms:.1f} ms a request on average"),
        ("U-Net: compute", f"{stats.compute_ms:.1f} ms a request on average, shared by the requests of a batch"),
        ("last used", f"{stats.last_used.astimezone():%Y-%m-%d %H:%M:%S}" if stats.last_used else "never"),
    ):
        table.add_row(name, value)
    return table
