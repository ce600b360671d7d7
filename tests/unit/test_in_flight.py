"""Requests on their way are counted exactly, across processes, and none that got lost is counted for long."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lipsync_mel import permit_file
from lipsync_mel.in_flight import LONGEST, PROBING, SOON, Full, Permits
from lipsync_mel.permit_file import EXTRA, NONE, PERMITS, Finished

SECOND = 1_000_000_000
ANN, BEN = 7, 9  # avatars


@pytest.fixture
def file(tmp_path):
    return tmp_path / "in_flight"


@pytest.fixture
def full(file):
    """`full(n, began)`: the first stage of a server with n permits, all of them taken at `began` and after."""

    def make(count, began=1):
        door = Permits(file, count)
        return door, [door.acquire(began + number) for number in range(count)]

    return make


def held(file):
    """Permits that are held, without the extra one."""
    return int(np.count_nonzero(np.fromfile(file, np.int64)[PERMITS:]))


def test_a_permit_is_free_again_when_its_request_is_finished(file, full):
    door, (first, second) = full(2)
    assert first != second
    assert door.acquire(3) == EXTRA
    with pytest.raises(Full, match=r"^\[overloaded\] 2 requests are in flight"):
        door.acquire(4)
    Finished(file).release(first, 1, ANN, 10)
    assert door.acquire(11) == first


def test_what_holds_no_permit_frees_none_and_is_no_news(file, full):
    Finished(file).release(PERMITS, 1, ANN, 10)  # before the first stage ran at all
    _, (permit,) = full(1, began=5)
    before = file.read_bytes()
    for wrong, began in [
        (permit, 4),
        (permit, 0),
        (EXTRA, 0),
        (EXTRA, 5),
        (NONE, 5),
        (1, 0),
        (permit + 1, 5),
        (9**9, 5),
    ]:
        Finished(file).release(wrong, began, ANN, 10)
    assert file.read_bytes() == before


def test_a_clock_that_begins_at_0_does_not_say_that_requests_take_for_ever(file, full):
    door, permits = full(2)
    last = Finished(file)
    last.release(permits[0], 1, ANN, 10)
    last.release(permits[0], 0, ANN, 10**15)  # a free permit is 0, too
    door.acquire(20)
    door.acquire(21)
    assert door.acquire(21 + PROBING) == EXTRA  # and not only after what the server has been up


def test_lost_permits_are_free_when_a_request_that_began_later_is_finished(file, full):
    door, _ = full(64)  # none of which ever reaches the last stage
    extra = door.acquire(100)
    assert extra == EXTRA
    with pytest.raises(Full):
        door.acquire(101)
    Finished(file).release(extra, 100, ANN, 200)
    assert door.acquire(201) >= PERMITS
    assert held(file) == 1


def test_lost_permits_are_free_in_the_end_though_nothing_is_finished(file, full):
    door, permits = full(3)
    assert door.acquire(LONGEST) == EXTRA
    assert {door.acquire(LONGEST + 4 + number) for number in range(3)} == set(permits)


def test_an_extra_request_that_gets_lost_keeps_the_door_shut_for_a_moment_only(file, full):
    door, _ = full(2)
    assert door.acquire(100) == EXTRA
    with pytest.raises(Full):
        door.acquire(100 + PROBING - 1)
    assert door.acquire(100 + PROBING) == EXTRA


def test_a_server_that_is_slow_and_not_idle_keeps_to_its_bound(file):
    """Each request takes 15 to 20 s, and one is finished every 5 s: never more than one above the bound."""
    door, last = Permits(file, 3), Finished(file)
    queue = [(door.acquire(began), began) for began in range(1, 4)]
    for now in range(20 * SECOND, 400 * SECOND, 5 * SECOND):
        last.release(*queue.pop(0), ANN, now)
        for attempt in range(4):
            try:
                queue.append((door.acquire(now + attempt), now + attempt))
            except Full:
                break
        assert len(queue) <= 3 + 1
    assert len(queue) >= 3


def test_a_fast_avatar_frees_no_permit_of_a_slow_one(file):
    door, last = Permits(file, 4), Finished(file)
    slow = [(door.acquire(began), began) for began in range(1, 4)]
    last.release(*slow.pop(0), BEN, 6 * SECOND)  # it took 6 s
    slow += [(door.acquire(6 * SECOND + 1), 6 * SECOND + 1)]
    for now in range(7 * SECOND, 12 * SECOND, SECOND // 10):
        last.release(door.acquire(now), now, ANN, now + SECOND // 20)
        assert held(file) == 3, "the slow one's are held still"
    last.release(*slow.pop(0), BEN, 12 * SECOND)
    assert held(file) == 2


def test_an_avatar_that_nobody_asks_any_more_keeps_no_lost_permit(file):
    door, last = Permits(file, 2), Finished(file)
    last.release(door.acquire(1), 1, BEN, 2)
    for began in (10, 11):
        door.acquire(began)
    last.release(door.acquire(12), 12, ANN, 13)  # the extra one
    assert door.acquire(20) == EXTRA  # they may still be the other avatar's
    assert door.acquire(12 + SOON) >= PERMITS


def test_an_error_of_the_first_stage_gives_its_permit_back(file, full):
    door, (permit,) = full(1, began=5)
    door.give_back(permit, 4)
    assert held(file) == 1
    door.give_back(permit, 5)
    assert held(file) == 0


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
    assert door.acquire(2) == EXTRA


def test_a_stage_loaded_again_knows_what_is_on_its_way(file, full):
    full(1)
    assert Permits(file, 1).acquire(2) == EXTRA
    assert held(file) == 1


def test_a_file_that_somebody_cuts_is_made_good(file, full):
    door, permits = full(2)
    last = Finished(file)
    os.truncate(file, 4)
    last.release(permits[0], 1, ANN, 10)  # nothing to be freed there
    assert {door.acquire(20), door.acquire(21)} == set(permits)
    last.release(permits[0], 20, ANN, 30)
    assert held(file) == 1


@pytest.fixture
def shared(tmp_path, monkeypatch):
    monkeypatch.setattr(permit_file, "SHARED_MEMORY", tmp_path)
    return tmp_path


def test_files_of_servers_that_have_ended_are_swept_and_no_other(shared):
    living, dead = shared / "lipsync_1_1_1_0_in_flight", shared / "lipsync_2_1_1_0_in_flight"
    code = f"import pathlib; from lipsync_mel.in_flight import Permits; Permits(pathlib.Path({str(dead)!r}), 1)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    door = Permits(living, 1)
    assert dead.exists()
    permit_file.sweep()
    assert [path.name for path in shared.iterdir()] == [living.name]
    del door
    permit_file.sweep()
    assert not list(shared.iterdir())


CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc"]
STAGE = [sys.executable, "-c", "from lipsync_mel.permit_file import server_file; print(server_file())"]


@pytest.mark.skipif(subprocess.run([*CONTAINER, "true"], capture_output=True).returncode, reason="not allowed here")
def test_stages_agree_on_a_file_and_servers_with_the_same_process_id_do_not():
    """Each server is process 1 of its own namespace, as in a container, and starts two stages."""
    start = f"import subprocess; [subprocess.run({STAGE!r}, check=True) for stage in range(2)]"
    servers = [
        subprocess.run(
            [*CONTAINER, sys.executable, "-c", start], capture_output=True, text=True, check=True, timeout=60
        )
        for _ in range(2)
    ]
    (one, same), (other, also) = (server.stdout.split() for server in servers)
    assert one == same != other == also
    assert one.endswith("_0_in_flight")
