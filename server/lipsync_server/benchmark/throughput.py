"""How many frames a second: the reference way, the floor and the server, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lipsync_client import Client
from lipsync_server import home
from lipsync_server.benchmark.packed import DEMO, FULL_WIDTH
from lipsync_server.pipeline import LocalPipeline
from lipsync_server.repository.source import AvatarSource
from lipsync_server.serving.server_settings import GpuConfigs

CHUNKS = (1, 4, 8, 16, 25, 32)
FLOOR, REFERENCE = "floor", "reference"


class Renderer(Protocol):
    """The reference way."""

    def render(self, speech: NDArray[np.float32], count: int) -> list[bytes]:
        """The first `count` frames of a speech, as JPEG."""


def throughput(
    url: str,
    repository: Path,
    preset: str,
    rounds: int,
    *,
    quick: bool,
    gpu: GpuConfigs | None,
    reference: Callable[[AvatarSource, str], Renderer] | None,
) -> dict[str, list[float]]:
    """Frames a second of each contender in each round; served ones by their chunk size.

    Args:
        reference: makes the reference way's renderer for an avatar and a width ("half" or "full"); None: without it.
    """
    speech, avatar = np.tile(home.read_sample(), 2), f"demo-{preset}"
    floor = LocalPipeline(repository, avatar, gpu)
    long, short = (150, 75) if quick else (300, 100)  # frames
    with Client(url, timeout=120) as client:

        def served(chunk: int, frames: int) -> int:
            part = speech[: 640 * frames]
            return sum(1 for _ in client.render(part, avatar=avatar, first_chunk=chunk, chunk=chunk))

        contenders: dict[str, Callable[[int], int]] = {}
        if reference:
            renderer = reference(AvatarSource.read(DEMO), "full" if preset in FULL_WIDTH else "half")
            contenders[REFERENCE] = lambda _: len(renderer.render(speech, 12 if quick else 24))
        contenders[FLOOR] = lambda frames: sum(1 for _ in floor.render(speech[: 640 * frames], chunk=25))
        contenders |= {str(chunk): partial(served, chunk) for chunk in CHUNKS}
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for run in contenders.values():
            run(32)  # warm
        for _ in range(rounds):
            for name, run in contenders.items():
                begin = time.perf_counter()
                frames = run(long if name in (FLOOR, "25") else short)
                found[name].append(frames / (time.perf_counter() - begin))
    return found


def first_frames_ms(url: str, preset: str, times: int) -> list[float]:
    """Time to the first frame of a speech whose first chunk of 4 frames is at hand."""
    speech, found = home.read_sample(), []
    with Client(url, timeout=120) as client:
        for _ in range(times + 1):
            begin = time.perf_counter()
            frames = client.render(speech[: 640 * 4], avatar=f"demo-{preset}", first_chunk=4)
            next(frames)
            found.append((time.perf_counter() - begin) * 1000)
            frames.close()
    return found[1:]


def stage_times(url: str, preset: str) -> dict[str, list[float]]:
    """Median TIMINGS_MS for each chunk size, one request at a time."""
    result = {}
    with Client(url, timeout=120) as client:
        for chunk in CHUNKS:
            start, audio = client.timeline().slice(home.read_sample(), 40, chunk)
            asked: dict[str, Any] = {"audio_start": start, "audio_end": False, "first_frame": 40, "frame_count": chunk}
            rows = [client.infer(audio, avatar=f"demo-{preset}", **asked).timings_ms for _ in range(5)]
            result[str(chunk)] = [statistics.median(getattr(row, name) for row in rows) for name in rows[0]._fields]
    return result
