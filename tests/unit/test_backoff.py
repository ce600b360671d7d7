"""How soon a program that failed is started again."""

from __future__ import annotations

from lipsync_server.serving.backoff import Backoff


def test_what_keeps_ending_waits_longer_and_longer_to_a_bound() -> None:
    backoff = Backoff()
    delays = [backoff.delay(lived=3) for _ in range(12)]
    assert delays == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_what_has_worked_for_long_is_started_at_once() -> None:
    backoff = Backoff()
    for _ in range(20):
        backoff.delay(lived=0)
    assert backoff.delay(lived=600) == 0


def test_a_huge_number_of_failures_keeps_the_bound() -> None:
    backoff = Backoff()
    assert {backoff.delay(lived=0) for _ in range(3000)} == {0, 1, 2, 4, 8, 16, 32, 60}
