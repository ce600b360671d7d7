"""The mel stage as served, against librosa computed here."""

import numpy as np
import pytest

from speech import babble, real_speech, reference_rows

OUTPUTS = ["mel_windows", "window_mask", "FRAME_INDEX"]


def lengths(count: int = 20) -> list[int]:
    """From 0.05 s to 60 s, evenly spread on a logarithmic scale."""
    return np.exp(np.random.default_rng(11).uniform(np.log(800), np.log(960_000), count)).astype(int).tolist()


def check(call, speech: np.ndarray, first: int) -> None:
    """One request for frames of a whole speech: its rows are the reference's, and zeros outside its list."""
    expected = reference_rows(speech)
    got = call("mel_preprocess", OUTPUTS, AUDIO=speech, FIRST_FRAME=first)
    count = min(32, -(-len(speech) // 640) - first)
    assert got.FRAME_INDEX.tolist() == list(range(first, first + count))
    assert got.mel_windows.shape == (count + 15, 1, 80, 16)
    for row, (window, mask) in enumerate(zip(got.mel_windows, got.window_mask, strict=True)):
        number = first - 8 + row
        inside = 0 <= number < len(expected)
        assert mask == inside
        np.testing.assert_allclose(window[0], expected[number] if inside else 0, atol=1e-4)


def test_real_speech_equals_librosa(call):
    speech = real_speech()
    for first in range(0, -(-len(speech) // 640), 32):
        check(call, speech, first)


@pytest.mark.parametrize("length", lengths())
def test_any_length_equals_librosa_at_its_start_middle_and_end(call, length):
    speech, frames = babble(length, seed=length), -(-length // 640)
    for first in sorted({0, frames // 2, max(0, frames - 20), frames - 1}):
        check(call, speech, first)


def test_slices_equal_the_whole_to_the_bit(call):
    speech = np.pad(real_speech(), (0, 7240))
    whole = {f: call("mel_preprocess", OUTPUTS, AUDIO=speech, FIRST_FRAME=f, AUDIO_END=False) for f in (0, 40, 140)}
    for first, expected in whole.items():
        count = len(expected.FRAME_INDEX)
        start = max(0, 640 * first - 6321)
        part = speech[start : 640 * (first + count - 1) + 7240]
        got = call(
            "mel_preprocess",
            OUTPUTS,
            AUDIO=part,
            AUDIO_START=start,
            AUDIO_END=False,
            FIRST_FRAME=first,
            FRAME_COUNT=count,
        )
        np.testing.assert_array_equal(got.mel_windows, expected.mel_windows)
        np.testing.assert_array_equal(got.window_mask, expected.window_mask)
