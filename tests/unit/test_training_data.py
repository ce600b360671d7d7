"""Training data: mouth curves follow phonemes, pictures follow mouths, feature rows match the timeline."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
import scipy.sparse

torch = pytest.importorskip("torch", reason="training needs the extra studio")

from lipsync_mel import mel, timeline  # noqa: E402
from lipsync_server import home  # noqa: E402
from lipsync_server.repository.source import AvatarSource  # noqa: E402
from lipsync_studio.corpus import augmentation  # noqa: E402
from lipsync_studio.corpus.espeak_voices import VOICES, Espeak  # noqa: E402
from lipsync_studio.corpus.features import SpokenFrames, encode, spoken_frames  # noqa: E402
from lipsync_studio.corpus.mouth_curves import MOUTH, mouth_curves, phones_from_ipa  # noqa: E402
from lipsync_studio.corpus.sentences import sentences  # noqa: E402
from lipsync_studio.corpus.speech_data import Speech, load_corpus, run_in_environment  # noqa: E402
from lipsync_studio.networks import UNet  # noqa: E402
from lipsync_studio.training.articulation_probe import quantile_matched_targets, rows_of_frames  # noqa: E402
from lipsync_studio.training.encoder_validation import closures_reached  # noqa: E402
from lipsync_studio.training.shipped_encoder import FOLDER, read_encoder, read_probe  # noqa: E402
from lipsync_studio.training.unet_examples import WHOLE, FaceRegions  # noqa: E402
from lipsync_studio.training.unet_training import forward_window  # noqa: E402
from mouth_shapes import units_of  # noqa: E402
from mouth_states import as_dict  # noqa: E402
from portrait import FRAMES, pose_at  # noqa: E402
from train import REGIONS as DEMO_REGIONS  # noqa: E402

LOUD = np.full(32_000, 0.3, np.float32)


def curve(phones, name: str, seconds: float) -> float:
    """A curve's value at a time, of loud speech with these phonemes."""
    curves, _ = mouth_curves(phones, LOUD, 50)
    return float(curves[round(seconds * timeline.FPS), MOUTH.index(name)])


def test_open_vowels_open_and_silence_rests():
    phones = [("pau", 0.4), ("aa", 0.8), ("pau", 2.0)]
    assert curve(phones, "open", 0.6) > 0.8
    assert curve(phones, "open", 0.2) < 0.05
    assert curve(phones, "open", 1.2) < 0.05


@pytest.mark.parametrize("sound", ["m", "b", "p"])
def test_lips_close_for_a_short_closure_between_vowels(sound):
    phones = [("aa", 0.4), (sound, 0.48), ("aa", 0.8), ("pau", 2.0)]
    curves, _ = mouth_curves(phones, LOUD, 50)
    shut, wide = units_of(as_dict(curves[11])), units_of(as_dict(curves[6]))  # at 0.44 and 0.24 s
    assert shut["jawOpen"] - shut["mouthClose"] < 0.03
    assert wide["jawOpen"] - wide["mouthClose"] > 0.4
    assert all(closures_reached(curves, tuple(phones)))


def test_rounding_spreads_to_weak_phonemes():
    assert curve([("uw", 0.4), ("k", 0.48), ("uw", 0.8), ("pau", 2)], "round", 0.44) > 0.6
    assert curve([("iy", 0.4), ("k", 0.48), ("iy", 0.8), ("pau", 2)], "round", 0.44) < 0.2


def test_ipa_marks_keep_the_total_time_and_only_long_gaps_are_pauses():
    marks = [
        ("^", 0.1),
        ("m", 0.1),
        ("ˈ", 0.02),
        ("ɑ", 0.1),
        ("ː", 0.05),
        (" ", 0.04),
        ("p", 0.1),
        (" ", 0.3),
        ("s", 0.1),
    ]
    phones = phones_from_ipa([*marks, (".", 0.05), ("$", 0.05)])
    assert [name for name, _ in phones] == ["pau", "m", "aa", "p", "pau", "s", "pau"]
    ends = [end for _, end in phones]
    np.testing.assert_allclose(ends, [0.1, 0.2, 0.39, 0.51, 0.81, 0.91, 1.01], atol=1e-9)


def test_sentences_are_different_and_the_same_for_a_seed():
    texts = sentences(300, seed=4)
    assert len(set(texts)) == 300
    assert texts == sentences(300, seed=4)
    assert texts != sentences(300, seed=5)


class RowNumber(torch.nn.Module):
    """Stands for an encoder: its features are the first value of the window."""

    def forward(self, windows):
        return windows[:, 0, :1, 0].repeat(1, 512)


def test_a_frames_audio_is_the_rows_from_8_before_to_7_after():
    bank = scipy.sparse.csr_matrix(np.random.default_rng(0).random((80, 401)))
    audio = np.random.default_rng(1).standard_normal(32_000).astype(np.float32) * 0.1
    speech = Speech("x", audio, (("aa", 2.0),))
    rows = encode(RowNumber(), bank, audio)
    assert not rows[:8].any() and rows[8].any()  # rows before the list are zeros
    assert np.array_equal(rows[8], rows[9])  # row 0 repeats window 0
    frames = spoken_frames([speech], RowNumber(), bank, count=1, seed=0, augmented=0.0)
    assert len(frames.curves) == len(frames.first_row) == len(frames.silent)
    assert not frames.audio(0)[:16].any() and frames.audio(0)[16:].any()  # 8 of 16 rows, two channels each
    assert np.array_equal(frames.audio(5).reshape(16, 512), frames.rows[5:21].astype(np.float32))


def test_a_changed_speed_moves_phonemes_with_the_sound():
    speech = Speech("x", LOUD, (("aa", 1.0), ("pau", 2.0)))
    faster = augmentation.add_silence(augmentation.change_speed(speech, 1.25), 0.5, 0.25)
    assert [end for _, end in faster.phones[:3]] == pytest.approx([0.5, 1.3, 2.1])
    assert len(faster.audio) == pytest.approx(16_000 * (0.5 + 1.6 + 0.25), abs=2)


def test_vocal_tract_moves_formants_and_timbre_keeps_silence_silent():
    windows = np.full((2, 1, 80, 16), -4, np.float32)
    windows[:, :, 20] = windows[:, :, 60] = 1
    longer = augmentation.perturb_vocal_tract(windows, 1.25)[0, 0, :, 0]
    assert longer[[16, 48]] == pytest.approx([1, 1]) and longer[[20, 60]] == pytest.approx([-4, -4])
    accent = augmentation.perturb_vocal_tract(windows, 1.0, 1.25)[
        0, 0, :, 0
    ]  # the low one stays nearly, the high one moves
    assert 17 <= accent.argmax() <= 19 and accent[50:54].max() > -2
    timbre = augmentation.perturb_timbre(windows, np.random.default_rng(0))
    assert np.array_equal(timbre > -4, windows > -4)
    assert 0.01 < np.abs(timbre - windows).max() <= 6 * 0.08 + 1e-6


def test_espeak_reports_its_phonemes_times():
    try:
        engine = Espeak()
    except OSError as error:
        pytest.skip(f"needs Debian's libespeak-ng1: {error}")
    for voice in VOICES:
        audio, marks = engine.speak(voice, 150, "Mama, papa.")
        phones = phones_from_ipa(marks)
        assert phones[-1][1] == pytest.approx(len(audio) / timeline.SAMPLE_RATE, abs=0.01), voice
        assert [name for name, _ in phones if name in ("m", "p")] == ["m", "m", "p", "p"], voice
        level = np.abs(audio.astype(float))
        spans = [
            level[int(begin * timeline.SAMPLE_RATE) : int(end * timeline.SAMPLE_RATE)].mean()
            for (_, begin), (name, end) in pairwise(phones)
            if name == "p"
        ]
        assert max(spans) < 0.5 * level.max(), voice
    with pytest.raises(ValueError, match="no voice xx"):
        engine.speak("xx-nowhere", 150, "Hello.")


PIPER = """
import numpy as np
from types import SimpleNamespace

class SynthesisConfig:
    def __init__(self, length_scale): pass

class PiperVoice:
    @classmethod
    def load(cls, path): return cls()

    def synthesize(self, text, config, include_alignments):
        marks = [SimpleNamespace(phoneme=mark, num_samples=8000) for mark in "m\u0251"]
        yield SimpleNamespace(audio_float_array=np.full(16000, 0.5), sample_rate=16000, phoneme_alignments=marks)
"""


def test_piper_speaks_in_an_environment_without_this_project(tmp_path):
    (tmp_path / "piper.py").write_text(PIPER)
    for package in ("lipsync_studio", "lipsync_mel", "lipsync_client"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('not installed here')")
    python, texts, corpus = tmp_path / "python", tmp_path / "sentences.txt", tmp_path / "corpus"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    texts.write_text("Mama.\nPapa.")
    corpus.mkdir()
    run_in_environment(str(python), "piper_voice", "voice.onnx", texts, corpus)
    speeches = load_corpus(corpus)
    assert [speech.name for speech in speeches] == ["joe_0000", "joe_0001"]
    assert speeches[0].phones == (("m", 0.5), ("aa", 1.0)) and len(speeches[0].audio) == 16_000


def test_training_picks_starts_of_speeches_more_often_than_they_occur():
    """There the feature list begins with rows of zeros. A network that was not trained with them twitches."""
    rows = np.ones((10 + 1000 + 15, 512), np.float16)
    rows[:8] = 0
    silent = np.zeros(1000, bool)
    silent[100:150] = True
    frames = SpokenFrames(rows, np.arange(1000), np.zeros((1000, 7), np.float32), silent)
    rng = np.random.default_rng(0)
    picked = np.array([frames.pick(rng) for _ in range(2000)])
    assert 0.15 < np.mean(picked < 8) < 0.25
    assert 0.15 < silent[picked].mean() < 0.25


def test_the_demo_is_trained_with_the_mask_that_it_is_served_with():
    assert AvatarSource.read(home.AVATARS / "demo").mask == DEMO_REGIONS.mask


def test_the_demos_moving_regions_are_under_its_mask_and_are_trained():
    (top, left), regions = (side.start for side in DEMO_REGIONS.covered), DEMO_REGIONS
    x, y, width, height = regions.mask
    assert (top, left) == (y - 2, x - 2)  # the outermost two pixels of a window are not exact
    for rows, columns in (regions.mouth, regions.chin):
        assert y < rows.start and rows.stop < y + height
        assert x < columns.start and columns.stop < x + width
    assert regions.covered in regions.schedule


def test_breaths_are_in_pauses_only_and_leave_speech_unchanged():
    speech = Speech("x", LOUD, (("pau", 0.7), ("aa", 1.3), ("pau", 2.0)))
    breathing = [augmentation.add_breaths(speech, np.random.default_rng(seed)) for seed in range(20)]
    added = np.abs([taken.audio - LOUD for taken in breathing])
    assert not added[:, 11_200:20_800].any()
    assert 0.25 < np.mean(added[:, :11_200].max(1) > 0) < 0.75  # about every second pause
    assert 0.001 < added.max() < 0.3
    assert all(taken.phones == speech.phones for taken in breathing)


def test_the_loop_closes_and_motion_is_gentle():
    poses = [pose_at(i) for i in range(FRAMES + 1)]
    steps = [np.hypot(b.x - a.x, b.y - a.y) for a, b in pairwise(poses)]
    assert max(steps) < 0.5  # pixels a frame, the wrap included
    np.testing.assert_allclose(list(vars(poses[0]).values()), list(vars(poses[-1]).values()), atol=1e-9)
    assert max(p.lids for p in poses) == 4 and np.mean([p.lids > 0 for p in poses]) < 0.15


def test_a_window_has_the_values_of_the_whole_forward_pass():
    torch.manual_seed(0)
    network = UNet("half").eval()
    pictures, audio = torch.rand(2, 6, 320, 320), torch.rand(4, 32, 16, 16)
    with torch.no_grad():
        expected = network(pictures.repeat_interleave(2, 0), audio)
        whole = forward_window(network, pictures, audio, (slice(0, 320), slice(0, 320)))
        part = forward_window(network, pictures, audio, (slice(92, 284), slice(64, 256)))
    assert expected.std() > 0.001
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=0)
    inner = part[:, :, 4:-4, 4:-4]  # at the window's edge the convolutions see zeros
    torch.testing.assert_close(inner, expected[:, :, 96:280, 68:252], atol=1e-5, rtol=0)


def test_errors_count_most_in_the_mouth_region():
    regions = FaceRegions((slice(10, 90), slice(20, 120)), (slice(0, 200), slice(0, 200)), (50.0, 70.0), (20.0, 30.0))
    weights = regions.weights().numpy()
    assert weights.shape == (320, 320)
    assert np.unravel_index(int(weights.argmax()), weights.shape) == (50, 70)
    assert weights[50, 70] == pytest.approx(9.5) and weights[200, 70] == pytest.approx(2.5, abs=1e-3)
    assert weights[50 + 20, 70] == pytest.approx(weights[50, 70 + 30], abs=1e-4)  # one reach down, one across
    assert set(map(str, regions.schedule)) == {
        str(part) for part in (regions.covered, regions.mouth, regions.chin, WHOLE)
    }


def test_the_shipped_encoder_reads_back_to_what_is_served():
    windows = np.random.default_rng(3).uniform(-4, 4, (8, 1, 80, 16)).astype(np.float32)
    served = onnxruntime.InferenceSession(FOLDER / "encoder.onnx").run(None, {"mel": windows})[0]
    with torch.no_grad():
        read = read_encoder()(torch.from_numpy(windows)).numpy()
    assert served.std() > 0.01
    np.testing.assert_allclose(read, served, atol=1e-3 * np.abs(served).max())


def test_the_shipped_probe_predicts_silence_and_open_mouths():
    """The probe that U-Nets are trained with belongs to the encoder that is served."""
    encoder, probe, bank, predicted = read_encoder(), read_probe(), mel.load_filterbank(), []
    for audio in (np.zeros(32_000, np.float32), home.read_sample()):
        rows = torch.from_numpy(encode(encoder, bank, audio))
        with torch.no_grad():
            predicted.append(probe(rows_of_frames(rows))[:, MOUTH.index("open")].numpy())
    assert predicted[0].max() < 0.1  # the first frames too, which read rows of zeros
    assert predicted[1].max() > 0.5


def test_targets_are_predicted_curves_with_the_true_distribution():
    """The probe reads the same rows as the U-Net. Its curves get the distribution of the true ones."""
    rng = np.random.default_rng(0)
    rows = rng.random((115, 512)).astype(np.float16)
    frames = SpokenFrames(rows, np.arange(100), rng.random((100, 7)).astype(np.float32), np.zeros(100, bool))

    class FirstValue(torch.nn.Module):
        def forward(self, audio):
            return audio[:, 0, :7] * 0.2

    each = rows_of_frames(torch.from_numpy(rows.astype(np.float32)))
    np.testing.assert_array_equal(each[37].reshape(32, 16, 16).numpy(), frames.audio(37))
    matched = quantile_matched_targets(frames, FirstValue(), batch=33).curves
    assert (np.argsort(matched[:, 0]) == np.argsort(rows[:100, 0])).all()
    often = [np.quantile(curves[:, 0], [0.1, 0.5, 0.9]) for curves in (matched, frames.curves)]
    np.testing.assert_allclose(*often, atol=0.03)
    silent = np.arange(100) > 80
    frames = replace(
        frames, silent=silent, curves=frames.curves * np.where(silent, 0.01, 1)[:, None].astype(np.float32)
    )
    resting = quantile_matched_targets(frames, FirstValue(), batch=33).curves
    np.testing.assert_array_equal(resting[silent], frames.curves[silent])  # silent frames keep their curves
    often = [np.quantile(curves[~silent, 0], [0.1, 0.5, 0.9]) for curves in (resting, frames.curves)]
    np.testing.assert_allclose(*often, atol=0.03)  # the amount of silence does not change the others
