"""The reliability run's bookkeeping: what it sends, what it counts, and which bounds it finds broken."""

from __future__ import annotations

import json
from random import Random

import pytest

from checkout import ROOT
from lipsync_server.reliability import PARTS, soak
from lipsync_server.reliability.attacker import Answers
from lipsync_server.reliability.bounds import bounds
from lipsync_server.reliability.good import FRAMES, GoodCallers
from lipsync_server.reliability.levels import Level, Levels
from lipsync_server.reliability.malformed_grpc import GRPC
from lipsync_server.reliability.malformed_http import HTTP
from lipsync_server.reliability.malformed_monolithic import MONOLITHIC
from lipsync_server.reliability.report import write_report

GOOD = {"speeches": 1, "frames": 75, "renderings": 1, "frames_rendered": 75, "late": 0}
GOOD |= {"lost": 0, "doubled": 0, "wrong": 0, "failures": []}
KILLS = {"kills": [{"name": "composite", "unready": True, "unready_s": 1.0, "ready_s": 6.0, "stood_still_s": 7.0}]}
MACHINE = {"date": "2026-01-01", "CPU": "some, 2 cores", "Python": "3.11", "versions": "numpy 1"}


@pytest.mark.parametrize("kinds", [GRPC, HTTP, MONOLITHIC], ids=["grpc", "http", "monolithic"])
def test_a_seed_always_gives_the_same_requests_of_every_kind(kinds) -> None:
    def made() -> list:
        random = Random(5)
        chosen = kinds.in_turn(random, len(kinds))
        assert {kind.name for kind in chosen} == {kind.name for kind in kinds}
        return [kind.make(random) for kind in chosen if kind.weight >= 0.1]

    assert made() == made()


def test_an_answer_that_a_malformed_request_may_not_have_is_told() -> None:
    answers = Answers()
    answers.add("grpc", "a kind", frozenset(), "INVALID_ARGUMENT", "as it should be")
    answers.add("grpc", "a kind", frozenset({"OK"}), "OK", "right for this kind")
    assert not answers.unexpected
    answers.add("grpc", "a kind", frozenset(), "OK", "a frame")
    answers.add("http", "a kind", frozenset(), "500", "a failure")
    assert dict(answers.unexpected) == {"grpc|a kind|OK": 1, "http|a kind|500": 1}
    assert answers.examples == ["grpc, a kind: OK: a frame", "http, a kind: 500: a failure"]


def test_frames_that_are_lost_doubled_or_wrong_are_counted() -> None:
    class Reference:
        period = 10

        def frames(self, start: int) -> list[bytes]:
            return [bytes([start, number]) for number in range(FRAMES)]

    seen = GoodCallers()
    seen.account([*range(FRAMES)])
    seen.account([*range(5), 4, *range(6, FRAMES)])  # 5 is lost, 4 came twice
    assert not seen.failures
    seen.account([1, 0, *range(2, FRAMES)])
    seen.shown[3, 2, bytes([2, 3])] += 4
    seen.shown[3, 2, b"another picture"] += 2
    found = seen.result(Reference())
    assert {name: found[name] for name in ("speeches", "lost", "doubled", "wrong")} == {
        **{"speeches": 3, "lost": 1, "doubled": 1, "wrong": 2}
    }
    assert found["failures"] == ["frames of a live speech came out of order"]


@pytest.mark.parametrize("what", ["lost", "doubled", "wrong"])
def test_one_bad_frame_breaks_a_bound_and_the_report_says_so(tmp_path, what: str) -> None:
    for count in (0, 1):
        found = {**KILLS, "good": {**GOOD, what: count}}
        assert all(bound.kept for bound in bounds("kills", found)) == (count == 0)
        part = {"machine": MACHINE, "sizes": {}, "found": found}
        write_report({"kills": part}, tmp_path / "report.md", "results.json")
        assert ("**failed**" in (tmp_path / "report.md").read_text().partition("## In short")[2]) == (count == 1)


def test_a_quarter_of_the_levels_is_a_quarter_of_their_time() -> None:
    levels = Levels(Level(float(time), float(time), 0, 0.0) for time in range(101))
    assert [quarter.median()["memory_mb"] for quarter in map(levels.quarter, range(4))] == [12.5, 37.5, 62.5, 87.5]


def test_the_report_in_the_docs_is_made_from_the_results_beside_it(tmp_path) -> None:
    found = json.loads((ROOT / "docs/reliability.json").read_text())
    assert set(found) <= set(PARTS)
    write_report(found, tmp_path / "reliability.md", "reliability.json")
    assert (tmp_path / "reliability.md").read_text() == (ROOT / "docs/reliability.md").read_text()


@pytest.mark.parametrize(("drift", "expected"), [(0.0, 0.0), (0.3, 0.3 * 3 / 8 / (1 + 0.3 * 5 / 8))])
def test_growth_is_of_what_is_held_between_the_attacks(drift: float, expected: float) -> None:
    levels = Levels()
    for second in range(3200):
        peak = 700.0 if second % 10 < (2 if second < 2400 else 5) else 0.0  # later they last longer
        levels.append(Level(float(second), 1000 * (1 + drift * second / 3200) + peak, 80, 150.0))
    assert soak.growth(levels)["memory_mb"] == pytest.approx(expected, abs=0.01)
    assert soak.growth(levels)["descriptors"] == 0
