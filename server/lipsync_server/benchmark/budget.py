"""What a frame costs each process, in milliseconds of one core."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lipsync_client import Client
from lipsync_server import home
from lipsync_server.serving.stages import StageWatch

CALLERS, FRAMES = 4, 25  # callers at once, frames in a request
TICKS = os.sysconf("SC_CLK_TCK")  # a second


def frame_budget_ms(server: int, url: str, avatar: str, seconds: float) -> dict[str, float]:
    """Core-milliseconds a frame of the server's process ("triton") and of each stage, under load.

    Args:
        server: process id of Triton.
        url: its gRPC address.
        avatar: whose frames are asked for.
        seconds: how long.
    """
    processes = {server: "triton"} | StageWatch(server).names()
    with Client(url, timeout=60) as client, ThreadPoolExecutor(CALLERS) as pool:
        start, audio = client.timeline().slice(home.read_sample(), 40, FRAMES)

        def ask(until: float) -> int:
            done = 0
            while time.monotonic() < until:
                asked: dict[str, Any] = {
                    "audio_start": start,
                    "audio_end": False,
                    "first_frame": 40,
                    "frame_count": FRAMES,
                }
                client.infer(audio, avatar=avatar, **asked)
                done += FRAMES
            return done

        def run(length: float) -> int:
            return sum(pool.map(ask, [time.monotonic() + length] * CALLERS))

        run(1)  # warm
        before = {pid: _cpu_s(pid) for pid in processes}
        frames = run(seconds)
        used = {pid: _cpu_s(pid) - spent for pid, spent in before.items()}
    found: dict[str, float] = {}
    for pid, name in processes.items():
        found[name] = found.get(name, 0) + used[pid] * 1000 / frames
    return {name: value for name, value in found.items() if value > 0.005}


def _cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
