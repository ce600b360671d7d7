"""The mel stage computes what the reference (librosa) computes, for a whole speech and for any slice of it."""

from pathlib import Path

import librosa
import numpy as np
import pytest

from lipsync_mel import mel, timeline
from speech import babble, reference_rows


@pytest.fixture(scope="module")
def filterbank() -> "mel.scipy.sparse.csr_matrix":
    return mel.load_filterbank()


def test_the_stored_filterbank_is_librosas():
    expected = librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    np.testing.assert_array_equal(np.load(mel.FILTERBANK), expected)


def windows_of(filterbank, audio, start, samples, first, count):
    starts, inside = timeline.row_windows(first, count, samples)
    return mel.encoder_windows(filterbank, audio, start, samples, starts, inside), inside


def whole(filterbank, speech):
    count = timeline.frame_total(len(speech))
    return windows_of(filterbank, speech, 0, len(speech), 0, count)


LENGTHS = [1, 800, 2999, 5599, 5600, 5601, 16000, 76800, *np.random.default_rng(7).integers(800, 400_000, 5).tolist()]


@pytest.mark.parametrize("length", LENGTHS)
def test_whole_speech_equals_the_reference(filterbank, length):
    speech = babble(length, seed=length)
    rows, inside = whole(filterbank, speech)
    expected = reference_rows(speech)
    for row in range(len(rows)):
        number = row - timeline.ROWS_BEFORE
        if 0 <= number < len(expected):
            assert inside[row]
            np.testing.assert_allclose(rows[row, 0], expected[number], atol=1e-4)
        else:  # outside the list: zeros, not repeats
            assert not inside[row] and not rows[row].any()


def test_window_count_follows_the_floating_point_formula():
    assert timeline.window_total(384) == int((384 - 16) / 80.0 * 25) + 2
    assert timeline.window_total(384) != (384 - 16) * 25 // 80 + 2  # where integer arithmetic first differs


@pytest.mark.parametrize("seed", range(8))
def test_slices_equal_the_whole_to_the_bit(filterbank, seed):
    random = np.random.default_rng(seed)
    speech = babble(int(random.integers(9_000, 200_000)), seed=seed)
    padded = np.pad(speech, (0, timeline.SAMPLES_AFTER))
    rows, _ = windows_of(filterbank, padded, 0, None, 0, timeline.frame_total(len(speech)))
    for _ in range(10):
        first = int(random.integers(0, timeline.frame_total(len(speech))))
        count = int(min(random.integers(1, 33), timeline.frame_total(len(speech)) - first))
        low, high = timeline.samples_needed(first, count)
        low = max(0, low - int(random.integers(0, 3)) * int(random.integers(0, 5000)))  # more than needed is fine
        part, _ = windows_of(filterbank, padded[low:high], low, None, first, count)
        np.testing.assert_array_equal(part, rows[first : first + count + 15])


def test_published_reach_is_what_the_windows_reach(filterbank):
    """Five neighbouring frames (16 hops) reach exactly the published samples, and what lies outside changes nothing."""
    first, count = 50, 5
    reach = [timeline.row_windows(frame, 1, None)[0] for frame in range(first, first + count)]
    before = [640 * (first + k) - (starts.min() * 200 - 400 - 1) for k, starts in enumerate(reach)]
    after = [(starts.max() + 15) * 200 + 400 - 640 * (first + k) for k, starts in enumerate(reach)]
    assert (max(before), max(after)) == (timeline.SAMPLES_BEFORE, timeline.SAMPLES_AFTER)

    low, high = timeline.samples_needed(first, count)
    speech = babble(high + 1000, seed=1)
    rows, _ = windows_of(filterbank, speech[low:high], low, None, first, count)
    speech[high:], speech[:low] = 0.5, 0.5
    again, _ = windows_of(filterbank, speech, 0, None, first, count)
    np.testing.assert_array_equal(rows, again)


def test_end_rules_touch_only_the_last_frames(filterbank):
    """A speech followed by the look-ahead's zeros gives the same windows as the file's end for its early frames."""
    speech = babble(64_000, seed=3)
    ended, _ = whole(filterbank, speech)
    padded = np.pad(speech, (0, timeline.SAMPLES_AFTER))
    open_, _ = windows_of(filterbank, padded, 0, None, 0, timeline.frame_total(len(speech)))
    np.testing.assert_array_equal(ended[:90], open_[:90])
    assert not np.array_equal(ended[-8:], open_[-8:])


def test_filterbank_of_another_shape_is_refused(tmp_path: Path):
    np.save(tmp_path / "filterbank.npy", np.zeros((40, 401), np.float32))
    with pytest.raises(ValueError, match=r"\(40, 401\).*\(80, 401\)"):
        mel.load_filterbank(tmp_path / "filterbank.npy")
