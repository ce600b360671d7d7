"""Measures that other systems publish: each on material whose answer is known."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import speech
from lipsync_studio.evaluation import theval, voice_activity
from lipsync_studio.evaluation.sharpness import cpbd, edge_widths
from lipsync_studio.faces import landmarks


def ramp(width: int, count: int = 64) -> np.ndarray:
    """A row that rises from 0 to 1 in some pixels, steepest in the middle."""
    return np.sin(np.pi / 2 * np.clip((np.arange(count) - 28) / width, 0, 1)) ** 2


def edges(width: int, contrast: int) -> np.ndarray:
    """A picture with upright edges, all of one width and contrast, BGR [128,256,3]."""
    row = np.concatenate([ramp(width), ramp(width)[::-1]] * 2)
    return np.repeat(np.repeat(np.rint(30 + contrast * row).astype(np.uint8)[None, :, None], 128, 0), 3, 2)


def face(opening: float = 0.0, *, size: float = 100.0, moved: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Landmarks of a face whose eyes' corners are `size` apart and whose lips are open by a share of that."""
    points = np.zeros((468, 2))
    points[landmarks.EYES[1]] = (1, 0)
    for i, (upper, lower) in enumerate(zip(theval.UPPER, theval.LOWER, strict=True)):
        points[upper], points[lower] = (0.3 + 0.05 * i, 0.8), (0.3 + 0.05 * i, 0.8 + opening)
    return points * size + moved


# --- CPBD ---


def test_an_edge_is_as_wide_as_the_ramp_between_its_extrema():
    for width in (2, 4, 6):
        row = 20 + 200 * ramp(width)
        for picture in (row, row[::-1], 240 - row):
            widths = edge_widths(np.repeat(picture[None], 64, 0))
            assert set(widths[widths > 0].tolist()) == {width}


def test_sharpness_is_the_share_of_edges_whose_blur_is_not_noticed():
    sharp, blurred = edges(2, 200), edges(6, 200)
    assert (cpbd(sharp), cpbd(blurred)) == (1, 0)
    assert cpbd(np.vstack([sharp, blurred, blurred])) == pytest.approx(1 / 3, abs=0.02)


def test_faint_edges_may_be_wider_than_strong_ones_before_it_is_noticed():
    assert (cpbd(edges(4, 150)), cpbd(edges(4, 40))) == (0, 1)  # strong ones from 3 pixels on, faint ones from 5


def test_a_picture_without_edges_has_no_sharpness():
    assert np.isnan(cpbd(np.full((128, 128, 3), 90, np.uint8)))


# --- LMD ---


def test_landmark_distance_ignores_place_and_size_and_counts_the_shape():
    still = theval.mouth_landmarks(face(0.1))
    same = theval.mouth_landmarks(face(0.1, size=350, moved=(40, -7)))
    assert theval.landmark_distance(still, same) == pytest.approx(0)
    shifted = still + np.array([3.0, 4.0])
    assert theval.landmark_distance(still, shifted) == pytest.approx(5)
    one = still.copy()
    one[4] += (6, 8)
    assert theval.landmark_distance(still, one) == pytest.approx(10 / 20)


# --- THEval ---


def test_the_lips_opening_is_relative_to_the_eyes_distance():
    assert theval.lip_opening(face(0.12)) == pytest.approx(0.12)
    assert theval.lip_opening(face(0.12, size=30, moved=(5, 5))) == pytest.approx(0.12)


def test_loudness_is_the_root_mean_square_around_each_frame():
    sound = np.zeros(16_000, np.float32)
    sound[8000:] = 0.2 * np.sin(np.arange(8000) * 0.7)
    loud = theval.loudness(sound, 25)
    assert loud[:11].max() == 0
    np.testing.assert_allclose(loud[15:24], 0.2 / np.sqrt(2), rtol=0.02)


def test_a_mouth_that_follows_loudness_differs_by_nothing():
    loud = np.random.default_rng(0).random(50)
    speaking = np.ones(50, bool)
    speaking[:10] = False
    assert np.nanmean(theval.lip_sync(0.05 + 0.3 * loud, loud, speaking)) == pytest.approx(0, abs=1e-6)
    assert np.nanmean(theval.lip_sync(1 - loud, loud, speaking)) > 0.4
    assert np.isnan(theval.lip_sync(loud, loud, speaking)[:10]).all()


def test_lip_sync_has_its_value_by_hand():
    opening, loud = np.array([9.0, 0, 2, 4, 9]), np.array([9.0, 1, 1, 2, 9])
    speaking = np.array([False, True, True, True, False])
    np.testing.assert_allclose(theval.lip_sync(opening, loud, speaking)[1:4], [0, 0.5, 0], atol=1e-6)
    assert np.isnan(theval.lip_sync(opening, loud, np.zeros(5, bool))).all()


def test_silent_stability_counts_only_silences_of_a_third_of_a_second():
    speaking = np.ones(60, bool)
    speaking[5:12] = speaking[20:28] = False  # seven frames are too short, eight are enough
    assert theval.silences(speaking) == [(20, 28)]
    opening = np.full(60, 50.0)
    opening[20:28] = [0, 0, 0, 0, 0, 0, 0, 8]  # mean 1
    moved = theval.silent_movement(opening, speaking)
    assert np.isfinite(moved).sum() == 8 and np.nanmedian(moved) == 1


def test_speech_is_found_where_it_is_and_not_in_silence():
    if importlib.util.find_spec("silero_vad") is None:
        pytest.skip("the extra `studio` is not installed")
    spoken = speech.real_speech()
    sound = np.concatenate([np.zeros(16_000, np.float32), spoken, np.zeros(16_000, np.float32)])
    flags = voice_activity.speech_flags(sound, len(sound) // 640)
    assert not flags[:20].any() and not flags[-15:].any()
    assert flags[25 : 25 + len(spoken) // 640].mean() > 0.8
