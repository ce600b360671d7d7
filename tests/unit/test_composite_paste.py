"""The mouth lands where it came from, and nothing else of the frame changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lipsync_composite.geometry import CROP, INNER, MARGIN
from lipsync_composite.paste import changed_rect, paste
from lipsync_composite.segments import Rect

MASK = Rect(5, 5, 310, 305)
INSIDE = slice(MARGIN, CROP - MARGIN)


def smooth_frame(width: int = 700, height: int = 600, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 226, (6, 7, 3)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def noise(shape: tuple[int, ...], seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pasted(blend: str, frame: np.ndarray, box: Rect, mouth: np.ndarray, mask: Rect = MASK) -> np.ndarray:
    frame = frame.copy()
    paste(blend, mask, box.width, changed_rect(blend, mask, box).of(frame), mouth)
    return frame


def crop_328(frame: np.ndarray, box: Rect) -> np.ndarray:
    return cv2.resize(box.of(frame), (CROP, CROP), interpolation=cv2.INTER_CUBIC)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(1e-9, np.square(a.astype(float) - b).mean()))


@pytest.mark.parametrize("size", [61, 164, 299, 300, 328, 341, 500])
def test_reference_paste_of_the_true_mouth_is_the_cubic_round_trip(size: int) -> None:
    frame, box = smooth_frame(), Rect(31, 17, size, size)
    crop = crop_328(frame, box)
    result = pasted("reference", frame, box, crop[INSIDE, INSIDE])
    round_trip = frame.copy()
    box.of(round_trip)[:] = cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)
    assert np.abs(result.astype(int) - round_trip).max() <= 1
    assert psnr(box.of(result), box.of(frame)) >= 55


@pytest.mark.parametrize("size", [164, 299, 328, 341, 500])
def test_soft_paste_of_the_true_mouth_changes_nothing_to_see(size: int) -> None:
    frame, box = smooth_frame(), Rect(31, 17, size, size)
    result = pasted("soft", frame, box, crop_328(frame, box)[INSIDE, INSIDE])
    assert psnr(box.of(result), box.of(frame)) >= 55


def test_reference_paste_keeps_the_border_of_the_crop_from_the_footage() -> None:
    frame, box = smooth_frame(), Rect(100, 100, CROP, CROP)  # at this size nothing is resized
    mouth = noise((INNER, INNER, 3))
    expected = frame.copy()
    expected[100 + MARGIN : 100 + CROP - MARGIN, 100 + MARGIN : 100 + CROP - MARGIN] = mouth
    assert np.array_equal(pasted("reference", frame, box, mouth), expected)


@pytest.mark.parametrize("mask", [MASK, Rect(0, 0, 320, 320), Rect(100, 140, 90, 60), Rect(288, 0, 32, 32)])
@pytest.mark.parametrize("size", [32, 33, 40, 200, 328, 333])
def test_soft_paste_leaves_pixels_outside_the_mask_as_they_are(size: int, mask: Rect) -> None:
    frame, box = noise((600, 700, 3)), Rect(50, 60, size, size)
    result = pasted("soft", frame, box, noise((INNER, INNER, 3), seed=9), mask)
    changed = np.argwhere((result != frame).any(axis=2))
    scale = size / CROP  # the mask in the frame, from its definition
    left, top = 50 + (mask.x + MARGIN) * scale, 60 + (mask.y + MARGIN) * scale
    centres = changed + 0.5
    assert (centres[:, 1] > left).all() and (centres[:, 1] < left + mask.width * scale).all()
    assert (centres[:, 0] > top).all() and (centres[:, 0] < top + mask.height * scale).all()
    assert len(changed) > 0.4 * mask.width * mask.height * scale**2


def test_soft_paste_equals_the_formula() -> None:
    """Within one level of a plain version in double precision, in every pixel of the frame."""
    size = 301
    frame, box, mouth = noise((400, 420, 3)), Rect(57, 40, size, size), noise((INNER, INNER, 3), seed=9)
    wide = np.pad(mouth, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge")
    resized = cv2.resize(wide, (size, size), interpolation=cv2.INTER_CUBIC).astype(float)

    def ramp(start: int, length: int) -> np.ndarray:
        at = ((np.arange(size) + 0.5) * CROP / size - MARGIN - start) / length  # 0..1 across the mask
        t = np.clip(np.minimum(at, 1 - at) / 0.09, 0, 1)
        return t * t * (3 - 2 * t)

    alpha = (ramp(MASK.y, MASK.height)[:, None] * ramp(MASK.x, MASK.width))[..., None]
    expected = frame.astype(float)
    box.of(expected)[:] = alpha * resized + (1 - alpha) * box.of(frame)
    assert np.abs(pasted("soft", frame, box, mouth) - expected).max() <= 1


def test_soft_edge_is_whole_in_the_middle_and_without_steps() -> None:
    black, white = np.zeros((320, 320, 3), np.uint8), np.full((INNER, INNER, 3), 255, np.uint8)
    box = Rect(0, 0, 320, 320)
    alpha = pasted("soft", black, box, white).astype(float) / 255
    assert (alpha[40:280, 40:280] == 1).all()
    assert (alpha[[0, -1]] == 0).all() and (alpha[:, [0, -1]] == 0).all()
    for axis in (0, 1):
        assert np.abs(np.diff(alpha, axis=axis)).max() < 0.06
    assert np.array_equal(pasted("soft", black, box, 0 * white), black)
    assert np.array_equal(pasted("soft", black + 255, box, white), black + 255)


def test_each_paste_is_independent_of_the_one_before() -> None:
    """Buffers are reused: sizes and blends mixed must give what each gives alone."""
    frame = noise((600, 700, 3))
    cases = [(b, s, noise((INNER, INNER, 3), seed=s)) for s in (320, 50, 328, 201, 400) for b in ("soft", "reference")]
    first = [pasted(blend, frame, Rect(9, 9, size, size), mouth) for blend, size, mouth in cases]
    again = [pasted(blend, frame, Rect(9, 9, size, size), mouth) for blend, size, mouth in reversed(cases)]
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))
