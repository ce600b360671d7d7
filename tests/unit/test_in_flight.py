"""Requests on their way are counted exactly, across processes, and none that got lost is counted for ever."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lipsync_mel import in_flight
from lipsync_mel.in_flight import SOON, Full, InFlight, leave

SECOND = 1_000_000_000


@pytest.fixture
def file(tmp_path):
    return tmp_path / "in_flight"


def test_a_place_is_free_again_when_its_request_is_finished(file):
    door = InFlight(file, 2)
    first, second = door.enter(1), door.enter(2)
    assert first != second
    with pytest.raises(Full, match=r"^\[overloaded\] 2 requests are in flight"):
        door.enter(3)
    leave(file, first, 1, 10)
    assert door.enter(4) == first


def test_what_holds_no_place_frees_none(file):
    leave(file, 1, 1, 10)  # before the first stage ran at all
    door = InFlight(file, 1)
    place = door.enter(5)
    for wrong_place, began in [(place, 4), (0, 5), (1, 5), (place + 1, 5), (-1, 5)]:
        leave(file, wrong_place, began, 10)
    with pytest.raises(Full):
        door.enter(6)


def test_a_request_that_never_arrives_loses_its_place_only_when_those_beside_it_are_long_done(file):
    door = InFlight(file, 2)
    door.enter(0 + 1)
    slow = door.enter(2)
    leave(file, slow, 2, 2 + 3 * SECOND)  # requests take three seconds now
    door.enter(3 * SECOND)
    with pytest.raises(Full):
        door.enter(SOON + 2 * SECOND)
    door.enter(12 * SECOND + 2)


def test_after_a_slow_finish_and_the_others_cancelled_new_ones_are_let_in_soon(file):
    door = InFlight(file, 4)
    places = [door.enter(began) for began in range(1, 5)]
    leave(file, places[0], 1, 20 * SECOND)  # it took 20 s, and nobody waits for the other three any more
    door.enter(20 * SECOND)
    with pytest.raises(Full):
        door.enter(30 * SECOND)
    for now in range(3):
        door.enter(30 * SECOND + 1 + now)


def test_a_server_that_is_slow_and_not_idle_keeps_to_its_bound(file):
    door = InFlight(file, 3)
    held = [(door.enter(began), began) for began in range(1, 4)]
    for now in range(20 * SECOND, 200 * SECOND, 5 * SECOND):  # each takes 15 to 20 s, and one is finished every 5 s
        place, began = held.pop(0)
        leave(file, place, began, now)
        held.append((door.enter(now), now))
        with pytest.raises(Full):
            door.enter(now + 1)


def test_processes_that_enter_at_once_get_places_of_their_own(file):
    door = InFlight(file, 4000)
    script = (
        f"import sys; sys.path.insert(0, {str(Path(in_flight.__file__).parent)!r})\n"
        f"import in_flight, pathlib; door = in_flight.InFlight(pathlib.Path({str(file)!r}), 4000)\n"
        "print(flush=True); input()\n"
        "for _ in range(1000): print(door.enter(1))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    others = [subprocess.Popen([sys.executable, "-c", script], **pipes) for _ in range(3)]
    for other in others:
        other.stdout.readline()  # it is ready
    for other in others:
        other.stdin.write("\n")
        other.stdin.flush()
    places = [door.enter(1) for _ in range(1000)]
    for other in others:
        places += map(int, other.communicate(timeout=60)[0].split())
    assert len(set(places)) == len(places) == 4000
    with pytest.raises(Full):
        door.enter(2)


def test_a_stage_loaded_again_knows_what_is_on_its_way(file):
    InFlight(file, 1).enter(1)
    with pytest.raises(Full):
        InFlight(file, 1).enter(2)
    assert np.fromfile(file, np.int64).tolist() == [0, 0, 1]
