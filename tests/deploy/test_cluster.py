"""Two real servers behind real Envoy with the shipped settings: replicas are killed, drained, replaced under load."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import pytest
import tritonclient.grpc as grpc
from cluster import Envoy, Replica, envoy, eventually
from deployment import free_ports

from conftest import infer
from lipsync_client import AsyncClient, Client, LiveSession, to_speech
from speech import real_speech

SPEECH = real_speech()[:25_600]  # 1.6 s
FRAMES = 40
PAUSE_S = 0.2  # between the works of a caller: two servers share the cores with what starts
SECONDS = 60


@dataclass
class Load:
    """Callers that go on until the test ends, and what they found."""

    stop: threading.Event = field(default_factory=threading.Event)
    done: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def caller(self, name: str, work: Callable[[], str | None]) -> threading.Thread:
        """A thread that works again and again. What `work` returns, or raises, is wrong."""
        self.done[name] = 0

        def repeat() -> None:
            while not self.stop.is_set():
                try:
                    found = work()
                except Exception as error:  # whatever a caller would see
                    found = f"{type(error).__name__}: {error}"
                if found:
                    self.wrong.append(f"{name}: {found}")
                self.done[name] += 1
                self.stop.wait(PAUSE_S)

        thread = threading.Thread(target=repeat)
        thread.start()
        return thread

    def wait_for_more(self) -> None:
        """Until every caller has finished two more works, one of which began after this call."""
        before = dict(self.done)
        eventually(lambda: all(self.done[name] >= before[name] + 2 for name in before), "the callers", 120)


@pytest.fixture(scope="module")
def cluster(repository, tmp_path_factory) -> Iterator[tuple[Envoy, list[Replica]]]:
    folder = tmp_path_factory.mktemp("cluster")
    ports = free_ports(2)
    replicas = [Replica(repository, folder / f"replica{number}", port) for number, port in enumerate(ports)]
    with ExitStack() as stack:
        for replica in replicas:
            replica.start()
            stack.callback(lambda replica=replica: replica.process.poll() is None and replica.kill())
            replica.wait()  # side by side they would find the folders of each other half compiled
        front = stack.enter_context(envoy(folder, ports))
        os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = str(front.certificate)
        eventually(lambda: front.healthy() == sorted(ports), "two healthy replicas", 30)
        yield front, replicas


@pytest.fixture(scope="module")
def expected(cluster) -> list[bytes]:
    """The frames of SPEECH, asked of one replica directly."""
    with Client(f"127.0.0.1:{cluster[1][0].port}", timeout=SECONDS) as client:
        return [frame.jpeg for frame in client.render(SPEECH, chunk=4)]


def rendering(address: str, expected: list[bytes]) -> Callable[[], str | None]:
    def work() -> str | None:
        with Client(address, timeout=SECONDS) as client:
            frames = [frame.jpeg for frame in client.render(SPEECH, chunk=4)]
        return None if frames == expected else f"{len(frames)} frames, not the expected ones"

    return work


def single_requests(address: str, expected: list[bytes]) -> Callable[[], str | None]:
    """Triton's own client, which sends nothing again: here only Envoy and the gateways do."""
    client = grpc.InferenceServerClient(address, ssl=True)

    def work() -> str | None:
        answer = infer(client, "lipsync_ensemble", AUDIO=SPEECH, FIRST_FRAME=8, FRAME_COUNT=2)
        return None if answer.JPEG.tolist() == expected[8:10] else "other frames"

    return work


def live(address: str) -> Callable[[], str | None]:
    """A live session that says SPEECH as it would be spoken. Each frame is there once, and is the right one."""

    async def session() -> str | None:
        samples = (SPEECH * 32767).astype(np.int16)
        sound = samples.tobytes()
        spoken = []
        async with LiveSession(address, timeout=20.0) as talk:

            async def say() -> None:
                for start in range(0, len(sound), 6_400):  # 0.2 s
                    await talk.push(sound[start : start + 6_400], 16_000)
                    await asyncio.sleep(0.2)
                await talk.end_speech()

            speaking = asyncio.create_task(say())
            async for frame in talk:
                if frame.speech_frame is not None:
                    spoken.append(frame)
                if frame.last:
                    break
            await speaking
        numbers = [frame.speech_frame for frame in spoken]
        if numbers != list(range(FRAMES)):
            return f"frames {numbers}"
        for start, group in itertools.groupby(spoken, lambda frame: frame.footage_position - frame.speech_frame):
            async with AsyncClient(address, timeout=SECONDS) as client:  # on the footage that the session showed
                heard = to_speech(samples, 16_000)  # 16 bits a sample
                whole = [one.jpeg async for one in client.render(heard, chunk=16, footage_start=start)]
            if any(frame.jpeg != whole[frame.speech_frame] for frame in group):
                return "other frames than a rendering's"
        return None

    return lambda: asyncio.run(asyncio.wait_for(session(), SECONDS))


@pytest.mark.timeout(500)
def test_replicas_are_killed_drained_and_replaced_and_no_frame_is_lost_or_wrong(cluster, expected):
    front, replicas = cluster
    secure, load = f"grpcs://{front.address}", Load()
    assert len(expected) == FRAMES
    callers = [
        load.caller("rendering", rendering(secure, expected)),
        load.caller("requests", single_requests(front.address, expected)),
        load.caller("live", live(secure)),
    ]
    try:
        load.wait_for_more()
        for replica, end in zip(replicas, (Replica.kill, Replica.drain), strict=True):
            end(replica)
            eventually(lambda gone=replica.port: gone not in front.healthy(), "Envoy to notice", 30)
            load.wait_for_more()
            replica.start()
            replica.wait()
            eventually(lambda: len(front.healthy()) == len(replicas), "Envoy to take it back", 60)
        load.wait_for_more()
    finally:
        load.stop.set()
        for thread in callers:
            thread.join(2 * SECONDS)
    assert not load.wrong
    assert front.count("upstream_rq_retry") > 0, "Envoy sent nothing again: nothing was in flight"


def test_requests_of_one_connection_go_to_both_replicas(cluster, expected):
    front, replicas = cluster
    before = [host_requests(front, replica.port) for replica in replicas]
    work = single_requests(front.address, expected)
    for _ in range(12):
        assert work() is None
    after = [host_requests(front, replica.port) for replica in replicas]
    assert all(new > old for old, new in zip(before, after, strict=True))


def host_requests(front: Envoy, port: int) -> int:
    """Requests that Envoy sent to a replica."""
    (cluster,) = front.ask("clusters?format=json")["cluster_statuses"]
    (host,) = (one for one in cluster["host_statuses"] if one["address"]["socket_address"]["port_value"] == port)
    return sum(int(stat.get("value", 0)) for stat in host["stats"] if stat["name"] == "rq_total")
