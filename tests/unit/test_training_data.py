"""What networks are trained on: mouths that follow phonemes, pictures that follow mouths, rows that match the clock."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
import scipy.sparse

torch = pytest.importorskip("torch", reason="training needs the train extra")

from stages import read_sample  # noqa: E402
import timeline  # noqa: E402
from drawn.draw_avatar import BOX, FRAMES, REST, WHOLE, Portrait, Pose, pose_at  # noqa: E402
from drawn.draw_mouth import shape_of  # noqa: E402
from networks import UNet  # noqa: E402
from train_unet import speak  # noqa: E402
from training import speech_data  # noqa: E402
from training.features import encode, spoken_frames  # noqa: E402
from training.mouth_curves import MOUTH, mouth_curves, phones_from_ipa  # noqa: E402
from training.sentences import sentences  # noqa: E402
from training.shipped_encoder import FOLDER, read_encoder, read_head  # noqa: E402
from training.unet_examples import WHOLE as WHOLE_CROP  # noqa: E402
from training.unet_examples import Places  # noqa: E402

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
    assert shape_of(curves[11]).gap < 2  # at 0.44 s
    assert shape_of(curves[6]).gap > 20


def test_rounding_spreads_to_sounds_that_do_not_care():
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
    speech = speech_data.Speech("x", audio, (("aa", 2.0),))
    rows = encode(RowNumber(), bank, audio)
    assert not rows[:8].any() and rows[8].any()  # rows before the list are zeros
    assert np.array_equal(rows[8], rows[9])  # row 0 repeats window 0
    frames = spoken_frames([speech], RowNumber(), bank, count=1, seed=0, rough=0.0)
    assert len(frames.curves) == len(frames.first_row) == len(frames.silent)
    assert not frames.audio(0)[:16].any() and frames.audio(0)[16:].any()  # 8 of 16 rows, two channels each
    assert np.array_equal(frames.audio(5).reshape(16, 512), frames.rows[5:21].astype(np.float32))


def test_a_changed_speed_moves_phonemes_with_the_sound():
    speech = speech_data.Speech("x", LOUD, (("aa", 1.0), ("pau", 2.0)))
    faster = speech_data.add_silence(speech_data.change_speed(speech, 1.25), 0.5, 0.25)
    assert [end for _, end in faster.phones[:3]] == pytest.approx([0.5, 1.3, 2.1])
    assert len(faster.audio) == pytest.approx(16_000 * (0.5 + 1.6 + 0.25), abs=2)


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    return Portrait()


def test_a_region_is_drawn_as_in_the_whole_picture(portrait):
    region = (BOX[0], BOX[1], BOX[2], BOX[2])
    mouth = np.array([0.8, 0.2, 0, 0, 0, 0.3, 0.2], np.float32)
    whole = portrait.draw(pose_at(30), mouth, WHOLE)
    x, y, width, height = region
    part = portrait.draw(pose_at(30), mouth, region)
    assert np.abs(part.astype(int) - whole[y : y + height, x : x + width]).max() <= 1


def test_the_mouth_moves_only_inside_the_mask(portrait):
    x, y, size = BOX
    rest = portrait.draw(Pose(), REST, (x, y, size, size)).astype(int)
    for vowel in ([1, 0, 0, 0, 0, 0, 0], [0.3, 1, 0, 0, 0, 1, 0], [0.3, 0, 1, 0, 0, 0, 0]):
        changed = np.abs(portrait.draw(Pose(), np.array(vowel, float), (x, y, size, size)) - rest).max(2) > 2
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert rows[0] > 4 + 20 and rows[-1] < 4 + 310 - 15
        assert columns[0] > 4 + 20 and columns[-1] < 4 + 315 - 20


def test_the_loop_closes_and_motion_is_gentle():
    poses = [pose_at(i) for i in range(FRAMES + 1)]
    steps = [np.hypot(b.x - a.x, b.y - a.y) for a, b in pairwise(poses)]
    assert max(steps) < 0.5  # pixels a frame, the wrap included
    np.testing.assert_allclose(list(vars(poses[0]).values()), list(vars(poses[-1]).values()), atol=1e-9)
    assert max(p.blink for p in poses) == 1 and np.mean([p.blink > 0 for p in poses]) < 0.15


def test_training_computes_what_the_network_computes():
    torch.manual_seed(0)
    network = UNet("half").eval()
    pictures, audio = torch.rand(2, 6, 320, 320), torch.rand(4, 32, 16, 16)
    with torch.no_grad():
        expected = network(pictures.repeat_interleave(2, 0), audio)
        whole = speak(network, pictures, audio, (slice(0, 320), slice(0, 320)))
        part = speak(network, pictures, audio, (slice(92, 284), slice(64, 256)))
    assert expected.std() > 0.001
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=0)
    inner = part[:, :, 4:-4, 4:-4]  # at the window's edge the convolutions see zeros
    torch.testing.assert_close(inner, expected[:, :, 96:280, 68:252], atol=1e-5, rtol=0)


def test_errors_count_most_where_the_source_says_the_face_speaks():
    places = Places((slice(10, 90), slice(20, 120)), (slice(0, 200), slice(0, 200)), (50.0, 70.0), (20.0, 30.0))
    weights = places.weights().numpy()
    assert weights.shape == (320, 320)
    assert np.unravel_index(int(weights.argmax()), weights.shape) == (50, 70)
    assert weights[50, 70] == pytest.approx(8) and weights[200, 70] == pytest.approx(1, abs=1e-3)
    assert weights[50 + 20, 70] == pytest.approx(weights[50, 70 + 30], abs=1e-4)  # one reach down, one across
    assert set(map(str, places.turns)) == {str(WHOLE_CROP), str(places.mouth), str(places.chin)}


def test_the_shipped_encoder_reads_back_to_what_is_served():
    windows = np.random.default_rng(3).uniform(-4, 4, (8, 1, 80, 16)).astype(np.float32)
    served = onnxruntime.InferenceSession(FOLDER / "encoder.onnx").run(None, {"mel": windows})[0]
    with torch.no_grad():
        read = read_encoder()(torch.from_numpy(windows)).numpy()
    assert served.std() > 0.01
    np.testing.assert_allclose(read, served, atol=1e-3 * np.abs(served).max())


def test_the_shipped_head_hears_silence_and_open_mouths(tmp_path):
    """The head that U-Nets are trained with belongs to the encoder that is served."""
    encoder, head, bank, heard = read_encoder(), read_head(), speech_data.load_filterbank(tmp_path), []
    for audio in (np.zeros(32_000, np.float32), read_sample()):
        rows = encode(encoder, bank, audio)
        with torch.no_grad():
            heard.append(head(torch.from_numpy(rows[12:-12]))[0][:, 1, MOUTH.index("open")].numpy())
    assert heard[0].max() < 0.15
    assert heard[1].max() > 0.5
