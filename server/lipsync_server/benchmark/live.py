"""Live sessions in real time: how many may speak at once before frames are late, and how soon they speak and stop.

    python -m lipsync_server.benchmark.live [--preset low] [--seconds 60]

Packs the demo avatar with the preset into a copy of the repository, serves it, and lets one session more listen than
speak. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipsync_client import LiveFrame, LiveSession
from lipsync_server import home
from lipsync_server.benchmark.packed import packed_repository
from lipsync_server.serving import Ports, ServerConfig, TritonServer

RATE = 16_000
PIECE = RATE // 50  # samples that come at once
PAUSE_S = 0.5  # between two speeches
STAGGER_S = 1.0  # between the beginnings of two speakers
INTERRUPT_EVERY = 3  # speeches
INTERRUPT_S = 2.0  # of a speech before it is interrupted


@dataclass
class Seen:
    """What all sessions of a run saw together; times in ms."""

    off_time: list[float] = field(default_factory=list)  # of every frame: how long after its time it was handed out
    talking: int = 0
    late: int = 0  # frame times within a speech without a talking frame
    first: list[float] = field(default_factory=list)  # from the first push to the first talking frame
    silent: list[float] = field(default_factory=list)  # from an interruption to the idle frame

    def row(self) -> str:
        first = f"{statistics.median(self.first):.0f} ({max(self.first):.0f})" if self.first else "-"
        silent = f"{statistics.median(self.silent):.0f} ({max(self.silent):.0f})" if self.silent else "-"
        return f"{self.talking} | {self.late} | {np.percentile(self.off_time, 99):.1f} | {first} | {silent}"


class Face:
    """One session that is watched, and speaks now and then."""

    def __init__(self, session: LiveSession, seen: Seen) -> None:
        self._session, self._seen = session, seen
        self._shown = asyncio.Condition()
        self._frame: LiveFrame | None = None

    async def watch(self, until: float) -> None:
        """Take the frames, as somebody who shows them would."""
        now = asyncio.get_running_loop().time
        delays = []
        async for frame in self._session:
            delays.append(1000 * (now() - frame.time_s))
            self._seen.talking += frame.speech_frame is not None
            self._seen.late += frame.state == "speaking" and frame.speech_frame is None
            async with self._shown:
                self._frame = frame
                self._shown.notify_all()
            if now() > until:
                break
        self._seen.off_time += [delay - min(delays) for delay in delays]

    async def speak(self, speech: NDArray[np.float32], pace: float, wait: float, until: float) -> None:
        """After a wait, say the speech again and again; interrupt some."""
        now = asyncio.get_running_loop().time
        await asyncio.sleep(wait)
        number = 0
        while now() < until:
            number += 1
            begin = now()
            pushing = asyncio.create_task(self._push(speech, pace))
            await self._until(lambda frame: frame.speech_frame is not None)
            self._seen.first.append(1000 * (now() - begin))
            if number % INTERRUPT_EVERY == 0:
                await asyncio.sleep(INTERRUPT_S)
                pushing.cancel()
                await asyncio.wait([pushing])
                begin = now()
                await self._session.interrupt()
                await self._until(lambda frame: frame.state == "idle")
                self._seen.silent.append(1000 * (now() - begin))
            else:
                await pushing
                await self._until(lambda frame: frame.last)
            await asyncio.sleep(PAUSE_S)

    async def _push(self, speech: NDArray[np.float32], pace: float) -> None:
        now = asyncio.get_running_loop().time
        begin = now()
        for start in range(0, len(speech), PIECE):
            await asyncio.sleep(begin + start / RATE / pace - now())
            await self._session.push(speech[start : start + PIECE], RATE)
        await self._session.end_speech()

    async def _until(self, reached: Callable[[LiveFrame], bool]) -> None:
        """Wait for a frame that comes from now on."""
        async with self._shown:
            self._frame = None
            await self._shown.wait_for(lambda: self._frame is not None and reached(self._frame))


async def live_sessions(
    url: str, avatar: str, speech: NDArray[np.float32], speaking: int, pace: float, seconds: float
) -> Seen:
    """`speaking` sessions that speak and one that only listens, for some time.

    Args:
        speech: samples at 16 kHz.
        pace: seconds of speech that come in a second.
    """
    seen = Seen()
    until = asyncio.get_running_loop().time() + seconds
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(LiveSession(url, avatar=avatar)) for _ in range(speaking + 1)]
        faces = [Face(session, seen) for session in sessions]
        talks = [
            asyncio.create_task(face.speak(speech, pace, STAGGER_S * number, until))
            for number, face in enumerate(faces[:speaking])
        ]
        await asyncio.gather(*(face.watch(until) for face in faces))
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="low", help="of the avatar (default: %(default)s)")
    parser.add_argument("--speaking", default="1,2,3", help="how many speak at once (default: %(default)s)")
    parser.add_argument("--paces", default="10,2,1", help="seconds of speech that come in a second; 1: a microphone")
    parser.add_argument("--seconds", type=float, default=60, help="of each run (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        repository, avatar = packed_repository(Path(name), [options.preset]), f"demo-{options.preset}"
        with TritonServer(repository, ServerConfig(ports=Ports(0, 0, 0), load=(avatar,), required=(avatar,))) as server:

            def run(speaking: int, pace: float, seconds: float) -> Seen:
                return asyncio.run(live_sessions(server.grpc_url, avatar, home.read_sample(), speaking, pace, seconds))

            run(1, 2, 5)  # warm
            print("speak | pace | talking frames | late | handed out late, p99 ms | first frame ms | silent after ms")
            for speaking in map(int, options.speaking.split(",")):
                for pace in map(float, options.paces.split(",")):
                    print(f"{speaking} | {pace:g} | {run(speaking, pace, options.seconds).row()}", flush=True)


if __name__ == "__main__":
    main()
