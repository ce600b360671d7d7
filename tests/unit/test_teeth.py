"""The smear between the lips, and the width of single sounds, on material whose answer is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lipsync_studio.evaluation import metric_tables
from lipsync_studio.evaluation.mouth_meter import MouthShape
from lipsync_studio.evaluation.recording import Recording, RenderedSpeech
from lipsync_studio.evaluation.teeth import OPENING, teeth_contrast, while_closing, while_opening


def mouth(height: int, line: int) -> tuple[np.ndarray, np.ndarray]:
    """White lips, and between them teeth with a line of some lightness; the landmarks of the opening."""
    picture = np.full((80, 120, 3), 255, np.uint8)
    picture[30 : 30 + height + 1, 20:101] = 160
    picture[30 + height // 2 : 33 + height // 2, 20:101] = line
    points = np.zeros((468, 2))
    upper, lower = OPENING[:9], OPENING[:8:-1]
    for i, (above, below) in enumerate(zip(upper, lower, strict=True)):
        points[above], points[below] = (20 + 10 * i, 30), (20 + 10 * i, 30 + height)
    return picture, points


def test_two_rows_of_teeth_have_more_contrast_than_a_band():
    band, rows = teeth_contrast(*mouth(12, 160)), teeth_contrast(*mouth(12, 20))
    assert band == 0 and rows > 40
    assert 0 < teeth_contrast(*mouth(12, 120)) < rows
    assert np.isnan(teeth_contrast(*mouth(2, 20)))


def test_only_narrow_mouths_that_close_count_for_the_smear():
    opening = np.array([0.0, 5, 12, 6, 3, 1, 0])
    contrast = np.arange(7.0)
    assert np.flatnonzero(np.isfinite(while_closing(contrast, opening))).tolist() == [3, 4]
    assert np.flatnonzero(np.isfinite(while_opening(contrast, opening))).tolist() == [1]


def test_the_width_of_a_sound_is_that_of_its_middle_frames():
    speech = RenderedSpeech("x", np.zeros(640 * 50, np.float32), (("pau", 0.4), ("w", 0.6), ("iy", 1.0), ("w", 1.2)))
    recording = Recording(speech, SimpleNamespace())
    recording.shapes = [MouthShape(0.0, 50.0, 0.0)] * 50
    recording.shapes[12], recording.shapes[27] = MouthShape(0, 30.0, 0), MouthShape(0, 34.0, 0)
    assert recording.width_in("w") == pytest.approx([30, 34])
    rows = {row.metric: row.values for row in metric_tables.phoneme_rows([recording])}
    assert rows["width in w, % of eyes (number)"] == ["32.0 (2)"]
    assert rows["width in iy (ee), % of eyes (number)"] == ["50.0 (1)"]
    assert not [metric for metric in rows if "uw" in metric]
