"""Live streams against a server: each speaks at 25 frames a second; a frame that comes after its time is late."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from lipsync_client import Client, LipsyncError

CHUNK = 8  # frames of a live request: 0.32 s of speech


@dataclass(frozen=True)
class Load:
    """What some streams saw together."""

    streams: int
    latency_ms: list[float]  # of each request, from sending to the answer
    late: int  # frames that came after their time
    frames: int
    refused: int  # requests

    def summary(self, seconds: float) -> dict[str, float]:
        """The counts, and the latency's median, p95 and p99 in ms."""
        p50, p95, p99 = np.percentile(self.latency_ms or [float("nan")], [50, 95, 99]).tolist()
        counts = {"streams": self.streams, "seconds": seconds, "late": self.late, "frames": self.frames}
        return counts | {"p50": p50, "p95": p95, "p99": p99}


def live(url: str, avatar: str, speech: NDArray[np.float32], streams: int, seconds: float) -> Load:
    """`streams` live speakers. Chunk c is asked for when its speech is there, at c * 0.32 s, and its frames are shown
    from 0.32 s later on: a chunk that takes longer has late frames.
    """
    period = CHUNK / 25
    chunks = int(seconds / period)
    latency: list[float] = []
    late = refused = 0
    lock = threading.Lock()
    begin = time.perf_counter() + 0.5

    def speak(number: int) -> None:
        nonlocal late, refused
        offset = begin + period * number / streams  # speakers do not start at once
        with Client(url, timeout=20) as client:
            for chunk in range(chunks):
                first = CHUNK * (chunk % 15)
                start, audio = client.timeline().slice(speech, first, CHUNK)
                due = offset + chunk * period
                time.sleep(max(0.0, due - time.perf_counter()))
                sent = time.perf_counter()
                try:
                    client.infer(
                        audio, avatar=avatar, audio_start=start, audio_end=False, first_frame=first, frame_count=CHUNK
                    )
                except LipsyncError:
                    with lock:
                        refused, late = refused + 1, late + CHUNK
                    continue
                done = time.perf_counter()
                shown = due + period + np.arange(CHUNK) / 25
                with lock:
                    latency.append((done - sent) * 1000)
                    late += int((shown < done).sum())

    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(speak, range(streams)))
    return Load(streams, latency, late, streams * chunks * CHUNK, refused)


def live_until_late(
    url: str, avatar: str, speech: NDArray[np.float32], seconds: float, longest: float
) -> list[dict[str, float]]:
    """1 to 8 live streams, until most frames are late; then the most streams that kept up once more, for longer."""
    found = []
    for streams in range(1, 9):
        found.append(live(url, avatar, speech, streams, seconds).summary(seconds))
        if found[-1]["late"] > found[-1]["frames"] / 2:
            break
    most = max((int(load["streams"]) for load in found if not load["late"]), default=0)
    if most and longest > seconds:
        found.append(live(url, avatar, speech, most, longest).summary(longest))
    return found


def overload(url: str, ensemble: str, speech: NDArray[np.float32], callers: int, seconds: float) -> dict[str, float]:
    """Far more callers than the server can serve, none of which waits.

    Returns:
        frames a second served, and how many requests were answered and how many refused as UNAVAILABLE.
    """
    until = time.perf_counter() + seconds
    answered = refused = 0
    lock = threading.Lock()

    with Client(url) as client:
        start, audio = client.timeline().slice(speech, 0, CHUNK)
    inputs = [InferInput("AUDIO", audio.shape, "FP32").set_data_from_numpy(audio)]
    for name, kind, value in (
        ("AUDIO_END", "BOOL", np.array([False])),
        ("FRAME_COUNT", "INT32", np.array([CHUNK], "i4")),
    ):
        inputs.append(InferInput(name, [1], kind).set_data_from_numpy(value))
    assert start == 0

    def call(_: int) -> None:
        nonlocal answered, refused
        with InferenceServerClient(url) as raw:  # the product's own client would wait and ask again
            while time.perf_counter() < until:
                try:
                    raw.infer(ensemble, inputs, client_timeout=60)
                except InferenceServerException as error:
                    if error.status() != "StatusCode.UNAVAILABLE":
                        raise
                    with lock:
                        refused += 1
                else:
                    with lock:
                        answered += 1

    begin = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(callers)))
    fps = answered * CHUNK / (time.perf_counter() - begin)
    return {"frames_s": fps, "answered": answered, "refused": refused}
