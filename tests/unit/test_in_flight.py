"""Requests on their way are counted exactly, across processes, and none that got lost is counted for ever."""

import subprocess
import sys

import numpy as np
import pytest

from lipsync_mel.in_flight import SOON, Full, Permits
from lipsync_mel.permit_file import release

SECOND = 1_000_000_000


@pytest.fixture
def file(tmp_path):
    return tmp_path / "in_flight"


def test_a_permit_is_free_again_when_its_request_is_finished(file):
    door = Permits(file, 2)
    first, second = door.acquire(1), door.acquire(2)
    assert first != second
    with pytest.raises(Full, match=r"^\[overloaded\] 2 requests are in flight"):
        door.acquire(3)
    release(file, first, 1, 10)
    assert door.acquire(4) == first


def test_what_holds_no_permit_frees_none(file):
    release(file, 1, 1, 10)  # before the first stage ran at all
    door = Permits(file, 1)
    permit = door.acquire(5)
    for wrong_permit, began in [(permit, 4), (0, 5), (1, 5), (permit + 1, 5), (-1, 5)]:
        release(file, wrong_permit, began, 10)
    with pytest.raises(Full):
        door.acquire(6)


def test_a_lost_request_frees_its_permit_when_those_beside_it_are_done(file):
    door = Permits(file, 2)
    door.acquire(0 + 1)
    slow = door.acquire(2)
    release(file, slow, 2, 2 + 3 * SECOND)  # requests take three seconds now
    door.acquire(3 * SECOND)
    with pytest.raises(Full):
        door.acquire(SOON + 2 * SECOND)
    door.acquire(12 * SECOND + 2)


def test_after_a_slow_finish_cancelled_requests_free_their_permits(file):
    door = Permits(file, 4)
    permits = [door.acquire(began) for began in range(1, 5)]
    release(file, permits[0], 1, 20 * SECOND)  # it took 20 s, and nobody waits for the other three any more
    door.acquire(20 * SECOND)
    with pytest.raises(Full):
        door.acquire(30 * SECOND)
    for now in range(3):
        door.acquire(30 * SECOND + 1 + now)


def test_a_server_that_is_slow_and_not_idle_keeps_to_its_bound(file):
    door = Permits(file, 3)
    held = [(door.acquire(began), began) for began in range(1, 4)]
    for now in range(20 * SECOND, 200 * SECOND, 5 * SECOND):  # each takes 15 to 20 s, and one is finished every 5 s
        permit, began = held.pop(0)
        release(file, permit, began, now)
        held.append((door.acquire(now), now))
        with pytest.raises(Full):
            door.acquire(now + 1)


def test_processes_that_enter_at_once_get_different_places(file):
    door = Permits(file, 4000)
    script = (
        "import pathlib; from lipsync_mel.in_flight import Permits\n"
        f"door = Permits(pathlib.Path({str(file)!r}), 4000)\n"
        "print(flush=True); input()\n"
        "for _ in range(1000): print(door.acquire(1))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    others = [subprocess.Popen([sys.executable, "-c", script], **pipes) for _ in range(3)]
    for other in others:
        other.stdout.readline()  # it is ready
    for other in others:
        other.stdin.write("\n")
        other.stdin.flush()
    permits = [door.acquire(1) for _ in range(1000)]
    for other in others:
        permits += map(int, other.communicate(timeout=60)[0].split())
    assert len(set(permits)) == len(permits) == 4000
    with pytest.raises(Full):
        door.acquire(2)


def test_a_stage_loaded_again_knows_what_is_on_its_way(file):
    Permits(file, 1).acquire(1)
    with pytest.raises(Full):
        Permits(file, 1).acquire(2)
    assert np.fromfile(file, np.int64).tolist() == [0, 0, 1]
