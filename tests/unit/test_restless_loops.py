"""Idle loops in which the mouth moves, or whose ends have different lips."""

from __future__ import annotations

import numpy as np
import pytest

from lipsync_studio.prepare.checks import Shapes, loop_findings
from lipsync_studio.prepare.idle_loop import Loop

COUNT = 523
REST, WIDTH = 0.012, 0.6


def clip(opening: np.ndarray | float = 0.0, width: np.ndarray | float = 0.0) -> Shapes:
    """A clip's shapes: lips at rest, as landmarks see them, and what is added."""
    noise = np.random.default_rng(0).normal(0, 0.001, (2, COUNT))
    return Shapes(REST + noise[0] + opening, WIDTH + noise[1] + width)


def during(frames: range | list[int], value: float) -> np.ndarray:
    added = np.zeros(COUNT)
    added[list(frames)] = value
    return added


TALK = 0.04 * (1 + np.sin(np.arange(COUNT) / 2))
RESTING = range(100, 300)


@pytest.mark.parametrize(
    ("shapes", "kind", "says"),
    [
        (clip(), "pingpong", []),
        (clip(), "forward", []),
        (clip(TALK), "pingpong", ["has a moving mouth in frames 10"]),
        (clip(during(range(180, 195), 0.05)), "pingpong", ["has a moving mouth in frames 180-194"]),
        (clip(width=during(range(120, 140), 0.08)), "pingpong", ["has a moving mouth in frames 120-139"]),
        (clip(during([150, 151, 270], 0.05)), "pingpong", []),
        (clip(during(range(0, 100), 0.08)), "pingpong", []),
        (clip(during(range(400, 523), 0.08)), "forward", []),
        (clip(during(range(298, 300), 0.03)), "forward", ["frames 299 and 100 follow each other"]),
        (clip(width=during(range(100, 103), 0.05)), "forward", ["frames 299 and 100 follow each other"]),
        (clip(during(range(298, 300), 0.03)), "pingpong", []),
        (clip(np.full(COUNT, np.nan)), "forward", []),
    ],
)
def test_a_loop_that_does_not_rest_is_a_finding_with_frame_numbers(shapes: Shapes, kind: str, says: list[str]) -> None:
    findings = loop_findings("anna", Loop(RESTING.start, len(RESTING), kind), shapes, np.zeros(COUNT, bool))
    assert len(findings) == len(says), findings
    for finding, part in zip(findings, says, strict=True):
        assert finding.startswith("anna: the idle loop, frames 100-299") and part in finding


def test_small_movements_count_where_there_is_speech() -> None:
    loop, lips = Loop(100, 200, "pingpong"), clip(during(range(150, 170), 0.011))
    assert not loop_findings("anna", loop, lips, np.zeros(COUNT, bool))
    assert "frames 150-169" in loop_findings("anna", loop, lips, during(range(140, 180), 1) > 0)[0]
