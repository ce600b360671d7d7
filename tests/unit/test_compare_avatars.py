"""`lipsync avatars evaluate --compare`: which differences are beyond noise, which moments are shown, and the page."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from test_evaluate import TwoDots, repository  # noqa: F401
from test_package_avatar import write_source

from lipsync_studio.cli.evaluate import evaluate
from lipsync_studio.evaluation import evaluate as evaluation
from lipsync_studio.evaluation import metrics, voice_activity
from lipsync_studio.evaluation.comparison import opened
from lipsync_studio.evaluation.comparison_page import Side, comparison_page
from lipsync_studio.evaluation.figures import differences, figures
from lipsync_studio.evaluation.moments import moments_of, peaks
from lipsync_studio.evaluation.mouth_meter import MouthShape
from lipsync_studio.evaluation.recording import Mouths, Recording, RenderedSpeech

FRAMES = 250


@pytest.fixture(autouse=True)
def no_voice_activity(monkeypatch):
    """Frames 50 to 199 have speech: the network is not needed here."""
    speaking = (np.arange(FRAMES) >= 50) & (np.arange(FRAMES) < 200)
    monkeypatch.setattr(voice_activity, "speech_flags", lambda speech, frames: speaking[:frames])


def recording(opening: np.ndarray, phones=(), film=None) -> Recording:
    """A recording whose mouth is open as told, percent of the eyes' distance."""
    sound = 0.1 * np.random.default_rng(3).standard_normal(640 * len(opening))
    sound[: 640 * 40] = 0
    patch = SimpleNamespace(movement=[], flicker=[])
    result = Recording(RenderedSpeech("talk", sound.astype(np.float32), phones, film), patch)
    result.shapes = [MouthShape(float(o), 40.0, 0.0) for o in opening]
    result.teeth = [20.0] * len(opening)
    result.lip_openings = (opening / 100).tolist()
    result.landmarks = [np.stack([np.zeros(20), np.full(20, o)], 1) for o in opening]
    result.mouths = [np.full((30, 40, 3), round(10 * float(o)) % 250, np.uint8) for o in opening]
    result.overview = [np.zeros((90, 160, 3), np.uint8)] * 12
    return result


def babbling(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(FRAMES)
    return 5 + 4 * np.convolve(noise, np.hanning(9), "same") / np.hanning(9).sum() ** 0.5


def test_equal_recordings_differ_in_nothing():
    found = differences(recording(babbling(0)), recording(babbling(0)))
    assert found and all(one.first == one.second and not one.beyond_noise for one in found)


def test_a_constant_difference_is_beyond_noise_and_a_random_one_is_not():
    base = babbling(0)
    wider = {one.name: one for one in differences(recording(base), recording(base + 1.0))}
    mean = wider["mean opening, % of eyes"]
    assert mean.second - mean.first == pytest.approx(1.0) and mean.low == pytest.approx(1.0) and mean.beyond_noise
    noise = 3 * np.random.default_rng(5).standard_normal(FRAMES)
    other = {one.name: one for one in differences(recording(base), recording(base + noise - noise.mean()))}
    assert not other["mean opening, % of eyes"].beyond_noise
    assert other["mean opening, % of eyes"].low < 0 < other["mean opening, % of eyes"].high


def test_a_worse_mouth_is_found_worse_against_the_filmed_person():
    person = babbling(1)
    film = Mouths([MouthShape(o, 40.0, 0.0) for o in person], (person / 100).tolist(), recording(person).landmarks)
    good, bad = recording(person, film=film), recording(babbling(2), film=film)
    found = {one.name: one for one in differences(good, bad)}
    r, lmd = found["opening / the filmed person's, r"], found["LMD against the truth, % of eyes"]
    assert r.first == pytest.approx(1) and r.second < 0.5 and r.beyond_noise and r.better == "higher"
    assert lmd.first == 0 and lmd.second > 1 and lmd.beyond_noise and lmd.better == "lower"


def test_steps_from_shut_to_wide_are_counted():
    opening = np.array([0.0, 0, 10, 10, 5, 0, 3, 6, 9, 10] * 4)
    assert np.flatnonzero(metrics.sudden(opening)).tolist() == [2, 10, 12, 20, 22, 30, 32]


def test_closed_lips_count_once_for_each_p_b_m():
    phones = (("aa", 1.0), ("b", 1.2), ("aa", 2.0), ("m", 2.2), ("aa", 10.0))
    opening = np.full(FRAMES, 8.0)
    opening[26] = 0.2
    values = {one.name: one.value for one in figures(recording(opening, phones))}
    assert values["p, b, m with closed lips, %"] == 50


def test_moments_are_the_closures_the_wide_and_the_differing_ones():
    phones = (("pau", 1.0), ("aa", 2.0), ("b", 2.2), ("aa", 3.0), ("pau", 10.0))
    first, second = np.full(FRAMES, 8.0), np.full(FRAMES, 8.0)
    first[52], second[54], second[120] = 0.0, 0.0, 30.0
    groups = {group.title.split(":")[0]: group.moments for group in moments_of(*map_recordings(first, second, phones))}
    assert groups["p, b, m"] == [("b", 52, 54)]
    assert (120, 120) in [moment[1:] for moment in groups["Where the two differ most"]]
    assert all(25 <= moment.first < 75 for moment in groups["Wide"])
    assert all(moment.first < 25 or moment.first > 75 for moment in groups["Rest"])


def map_recordings(first: np.ndarray, second: np.ndarray, phones) -> list[Recording]:
    return [recording(one, phones) for one in (first, second)]


def test_peaks_are_the_highest_and_apart():
    curve = np.zeros(100)
    curve[[10, 12, 50, 90]] = (5, 4, 3, 2)  # 12 is too near, 90 too low
    assert peaks(curve) == [10, 50]


def test_the_page_holds_its_pictures_and_marks_what_differs():
    phones = (("pau", 1.0), ("aa", 2.0), ("b", 2.2), ("aa", 8.0), ("pau", 10.0))
    first = np.where((np.arange(FRAMES) % 50 < 25), 8.0, 4.0)
    sides = [Side(f"<{name}>", ["Some facts."], [recording(o, phones)]) for name, o in (("a", first), ("b", first + 2))]
    page = comparison_page(*sides)
    assert "&lt;a&gt;" in page and "<a>" not in page
    assert 'src="data:image/jpeg;base64,' in page and not re.search(r'(src|href)="(?!data:)', page)
    assert re.search(r'mean opening, % of eyes<td>6<td>8<td class="other">\+2', page)
    assert re.search(r'p, b, m with closed lips, %<td>0<td>0<td class="">\+0', page)


def test_a_side_is_a_name_a_source_folder_or_a_repository(repository, tmp_path):  # noqa: F811
    folder = write_source(tmp_path / "other", loop="forward")
    before = sorted(path.name for path in repository.iterdir())
    keys = []
    for name in ("toy", str(repository), str(folder)):
        with opened(name, repository, "toy") as pipeline:
            keys.append(pipeline.key)
    assert keys[0] == keys[1] != keys[2]
    assert sorted(path.name for path in repository.iterdir()) == before


def test_compare_writes_one_page(repository, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(evaluation, "FaceMesh", TwoDots)
    evaluate("toy", repository=repository, out=tmp_path, voice="", seconds=2.0, compare=("toy", str(repository)))
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.html"]
    page = (tmp_path / "comparison.html").read_text()
    assert "0 of" in page and "figures differ beyond noise" in page
    assert str(tmp_path / "comparison.html") in "".join(capsys.readouterr())
