"""Recordings of real people as training data: alignment, held-out readers, examples, and what must not move a mouth."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra studio")

from lipsync_mel import mel, timeline  # noqa: E402
from lipsync_server import home  # noqa: E402
from lipsync_studio.corpus import augmentation, non_speech  # noqa: E402
from lipsync_studio.corpus.alignment import Aligner, AlignmentError, align_recordings, recordings_in  # noqa: E402
from lipsync_studio.corpus.features import encode  # noqa: E402
from lipsync_studio.corpus.mouth_curves import MOUTH, classes, mouth_curves  # noqa: E402
from lipsync_studio.corpus.recordings import (  # noqa: E402
    collection_of,
    held_out,
    import_recordings,
    trained_voices,
    with_schwas,
    write_speech,
)
from lipsync_studio.corpus.speech_data import Speech, encoder_rows, load_corpus  # noqa: E402
from lipsync_studio.evaluation import evaluation_sounds  # noqa: E402
from lipsync_studio.evaluation.recording import RenderedSpeech  # noqa: E402
from lipsync_studio.export import export_unet  # noqa: E402
from lipsync_studio.networks import CheckpointError, UNet, load_encoder_checkpoint  # noqa: E402
from lipsync_studio.training import encoder_examples  # noqa: E402
from lipsync_studio.training.articulation_probe import load_probe, rows_of_frames  # noqa: E402
from lipsync_studio.training.encoder_evaluation import as_markdown, measure  # noqa: E402
from lipsync_studio.training.encoder_refinement import EncoderRefinement  # noqa: E402
from lipsync_studio.training.frozen_listeners import FrozenListeners  # noqa: E402
from lipsync_studio.training.shipped_encoder import read_encoder, read_probe  # noqa: E402
from lipsync_studio.training.shipped_unet import read_unet  # noqa: E402

SAMPLE_TEXT = """And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do
for them."""  # of home.SAMPLE
RATE = timeline.SAMPLE_RATE
BANK = mel.load_filterbank()


def tone(seconds: float, pitch: float = 200) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def test_held_out_readers_are_fixed_and_never_trained_on(tmp_path):
    voices = [f"libri{i}" for i in range(100)] + [f"emodb{i:02d}" for i in range(10)] + ["librivox", "coffee001"]
    reporting, choosing = held_out(voices)
    assert held_out(reversed(voices)) == (reporting, choosing) and not reporting & choosing
    assert "librivox" in reporting and not {"coffee001"} & (reporting | choosing)
    assert [sum(collection_of(v) == "libri" for v in part) for part in (reporting, choosing)] == [24, 12]
    assert [sum(collection_of(v) == "emodb" for v in part) for part in (reporting, choosing)] == [2, 1]
    for voice in voices:
        (tmp_path / f"{voice}_0.json").write_text("{}")
    assert trained_voices(tmp_path) == set(voices) - reporting - choosing


def test_an_import_leaves_out_what_is_aligned_badly_or_not_at_all(tmp_path):
    source = tmp_path / "recordings"
    (source / "deep").mkdir(parents=True)
    for name in ("good_0", "loud_0", "long_0", "bare_0"):
        stated = {"phones": [["ah", 0.05], ["m", 0.3]], "licence": "x", "words": []}
        write_speech(source / "deep" / name, tone(0.3), {} if name == "bare_0" else stated)
    head = "id\tloud_pause_share\tquiet_vowel_share\tlongest_phone_s\n"
    (source / "check.tsv").write_text(head + "loud_0\t0.6\t\t0.1\nlong_0\t0\t0\t0.9\ngood_0\t0.5\t0.15\t0.8\n")
    assert import_recordings(source, tmp_path / "corpus") == 1
    (speech,) = load_corpus(tmp_path / "corpus")
    assert speech.name == "good_0" and speech.phones == (("ax", 0.05), ("m", 0.3))
    np.testing.assert_allclose(speech.audio, tone(0.3), atol=1e-4)
    assert json.loads((tmp_path / "corpus/good_0.json").read_text())["licence"] == "x"


def test_only_a_short_ah_is_a_schwa():
    assert with_schwas([("ah", 0.07), ("ah", 0.16), ("iy", 0.2)]) == [("ax", 0.07), ("ah", 0.16), ("iy", 0.2)]


def test_a_recording_with_its_text_is_aligned(tmp_path):
    shutil.copy(home.SAMPLE, tmp_path / "anna_0.wav")
    (tmp_path / "anna_0.txt").write_text(SAMPLE_TEXT)
    shutil.copy(home.SAMPLE, tmp_path / "anna_1.wav")
    (tmp_path / "anna_1.txt").write_text("Seven.")
    (tmp_path / "anna_2.txt").write_text("There is no recording of this.")
    assert align_recordings(tmp_path, tmp_path / "corpus") == 1
    (speech,) = load_corpus(tmp_path / "corpus")
    ends = [end for _, end in speech.phones]
    assert ends == sorted(ends) and ends[-1] == pytest.approx(len(speech.audio) / RATE, abs=0.1)
    curves, _ = mouth_curves(speech.phones, speech.audio, speech.frames)
    level = np.array([np.square(speech.audio[i * 640 : i * 640 + 640]).mean() for i in range(speech.frames)]) ** 0.15
    assert np.corrcoef(curves[:, 0], level)[0, 1] > 0.5  # vowels are where the sound is


def test_librispeechs_folders_are_read_as_they_are(tmp_path):
    chapter = tmp_path / "train-clean-100" / "103" / "1240"
    chapter.mkdir(parents=True)
    (chapter / "103-1240.trans.txt").write_text("103-1240-0000 CHAPTER ONE\n103-1240-0001 MISSUS RACHEL\n")
    (chapter / "103-1240-0001.flac").touch()
    (found,) = recordings_in(tmp_path)
    assert found == ("libri103_1240-0001", chapter / "103-1240-0001.flac", "MISSUS RACHEL")


def test_a_text_without_words_is_refused():
    with pytest.raises(AlignmentError, match="no words"):
        Aligner().align("1984!", tone(1))


def test_an_excerpt_has_the_curves_and_rows_of_the_whole():
    phones = (("pau", 0.4), ("aa", 1.0), ("m", 1.1), ("iy", 2.0), ("pau", 3.0))
    whole = Speech("x", tone(3), phones)
    part = augmentation.excerpt(whole, 30, 60)
    assert [name for name, _ in part.phones] == ["iy", "pau"] and part.frames == 30
    assert [end for _, end in part.phones] == pytest.approx([0.8, 1.2])
    (windows, inside), (own, _) = encoder_rows(BANK, whole.audio), encoder_rows(BANK, part.audio)
    np.testing.assert_allclose(own[12:22], windows[42:52], atol=1e-4)
    assert inside[42:52].all()


@pytest.mark.parametrize("seed", range(4))
def test_an_examples_rows_curves_and_classes_belong_to_each_other(seed):
    """A tone in a vowel, silence in the pause: sound and shape change at the same frame, at any pace."""
    speech = Speech("x", np.concatenate([tone(1.5), np.zeros(RATE, np.float32)]), (("aa", 1.5), ("pau", 2.5)))
    rng = np.random.default_rng(seed)
    _, clean, inside, curves, kinds = encoder_examples.speech_example(BANK, speech, 24, rng)
    assert clean.shape == (39, 1, 80, 16) and inside.shape == (39, 1) and curves.shape == (24, 7)
    loud = (clean[8:32, 0, :, 6:10].max((1, 2)) > -2) & (inside[8:32, 0] > 0)  # the middle of each frame's own window
    open_ = kinds == classes().index("aa")
    assert np.sum(loud != open_) <= 4


def test_music_noise_and_breath_are_examples_of_a_mouth_at_rest():
    batch = encoder_examples.batch_of(
        BANK,
        encoder_examples.SpeechSampler([Speech("a_0", tone(2), (("aa", 2.0),))], [], 0.5),
        np.random.default_rng(0),
        speeches=1,
        resting=2,
        count=10,
    )
    assert batch.windows.shape == (3, 25, 1, 80, 16) and batch.speech.tolist() == [True, False, False]
    assert not batch.real.any()
    assert batch.curves[1:, :, MOUTH.index("open")].max() == 0 and batch.curves[0, :, 0].max() > 0.5
    silence = encoder_rows(BANK, np.zeros(RATE, np.float32))[0]
    assert torch.equal(batch.clean[1, 10:12], torch.from_numpy(silence[10:12]))


def test_a_talkative_reader_and_a_large_collection_do_not_dominate():
    real = [Speech(f"libri1_{i}", tone(0.1), ()) for i in range(90)] + [
        Speech(f"libri2_{i}", tone(0.1), ()) for i in range(10)
    ]
    real += [Speech("emodb01_0", tone(0.1), ())]
    sampler, rng = encoder_examples.SpeechSampler([Speech("slt_0", tone(0.1), ())], real, 0.6), np.random.default_rng(0)
    drawn = [sampler.pick(rng) for _ in range(8000)]
    picked = [speech.name.split("_")[0] for speech, _ in drawn]
    assert [real for _, real in drawn] == [voice != "slt" for voice in picked]
    shares = {voice: picked.count(voice) / len(picked) for voice in ("slt", "libri1", "libri2", "emodb01")}
    assert shares["slt"] == pytest.approx(0.4, abs=0.03)
    assert shares["libri1"] / shares["libri2"] == pytest.approx(3, rel=0.25)  # nine times as many speeches
    assert (shares["libri1"] + shares["libri2"]) / shares["emodb01"] == pytest.approx(10, rel=0.3)  # a hundred times


def test_sounds_of_the_evaluation_are_always_the_same_and_not_silent():
    for name in evaluation_sounds.SOUNDS:
        audio = evaluation_sounds.sound(name)
        assert np.array_equal(audio, evaluation_sounds.sound(name)) and np.isfinite(audio).all()
        assert 20 * np.log10(np.abs(audio).max()) == pytest.approx(evaluation_sounds.LEVEL, abs=0.01)
    kinds = [name.partition("_")[0] for name in evaluation_sounds.SOUNDS]
    assert kinds.count("music") + kinds.count("noise") == 10


def test_training_sounds_without_speech_are_finite_and_of_all_kinds():
    rng = np.random.default_rng(1)
    for make in (non_speech.music, non_speech.noises, non_speech.breaths):
        made = [make(rng, 2 * RATE) for _ in range(6)]
        assert all(np.isfinite(x).all() and len(x) == 2 * RATE for x in made)
        assert all(np.sqrt(np.square(x).mean()) == pytest.approx(1, abs=1e-6) for x in made)
    levels = [np.abs(non_speech.sound_without_speech(rng, RATE)).max() for _ in range(60)]
    assert min(levels) == 0 and max(levels) < 1


def test_an_exported_u_net_reads_back(tmp_path):
    import onnx

    torch.manual_seed(0)
    network = UNet((4, 8, 16, 32, 64))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    onnx.save(export_unet(network), tmp_path / "unet.onnx")
    read, picture, audio = read_unet(tmp_path / "unet.onnx"), torch.rand(1, 6, 320, 320), torch.rand(1, 32, 16, 16)
    with torch.no_grad():
        expected = network.eval()(picture, audio)
        torch.testing.assert_close(read(picture, audio), expected, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(read.audio_model(audio), network.audio_model(audio), atol=1e-4, rtol=1e-3)
    assert expected.std() > 1e-3
    onnx.save(export_unet(read), tmp_path / "again.onnx")
    torch.testing.assert_close(read_unet(tmp_path / "again.onnx").state_dict(), read.state_dict())


def test_another_network_is_no_u_net(tmp_path):
    with pytest.raises(CheckpointError, match="a U-Net has 93"):
        read_unet(home.AVATARS / "audio_encoder" / "encoder.onnx")


@pytest.fixture(scope="module")
def refinement():
    torch.manual_seed(0)
    branch = read_unet(home.AVATARS / "demo" / "unet.onnx").audio_model
    return EncoderRefinement(FrozenListeners(read_probe(), branch))


def test_refinement_trains_the_encoder_alone_and_its_checkpoint_is_complete(refinement, tmp_path):
    listeners = refinement.listeners.requires_grad_(False)
    before = {name: value.clone() for name, value in listeners.state_dict().items()}
    sampler = encoder_examples.SpeechSampler([Speech("a_0", tone(2), (("aa", 2.0),))], [], 0.5)
    batch = encoder_examples.batch_of(BANK, sampler, np.random.default_rng(0), speeches=6, resting=1, count=4)
    shipped = read_encoder()
    refinement.save(tmp_path / "0.pt", 0)
    with torch.no_grad():
        window = batch.windows[0, :2]
        torch.testing.assert_close(load_encoder_checkpoint(tmp_path / "0.pt")(window), shipped(window))
    parts = [refinement.train_step(batch, 1e-3) for _ in range(3)]
    assert sum(parts[-1].values()) < sum(parts[0].values())
    refinement.save(tmp_path / "3.pt", 3)
    with torch.no_grad():
        refined = load_encoder_checkpoint(tmp_path / "3.pt")(window)
        torch.testing.assert_close(refined, refinement.network(window))
        assert (refined - shipped(window)).abs().max() > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in listeners.state_dict().items())
    load_probe(tmp_path / "3.pt")


def test_a_perfect_encoder_is_measured_as_perfect():
    phones = (("pau", 0.8), ("aa", 1.2), ("m", 1.4), ("uw", 2.0), ("pau", 3.0))
    speech = RenderedSpeech(
        "x", np.concatenate([np.zeros(12800, np.float32), tone(1.2), np.zeros(RATE, np.float32)]), phones
    )
    found = measure(speech.curves(), speech)
    assert found.opening == pytest.approx(1) and found.lag == pytest.approx(0, abs=0.2)
    assert (found.closures, found.closures_tried, found.pauses) == (1, 1, 1) and 0.4 < found.resting < 0.8
    late = measure(np.roll(speech.curves(), 2, axis=0), speech)
    assert late.lag == pytest.approx(2, abs=0.2)
    pressed = speech.curves()
    pressed[:, MOUTH.index("press")] = 1
    assert measure(pressed, speech).resting == 1  # however far the jaw is down
    resting = RenderedSpeech("y", tone(1), (("pau", 1.0),))
    assert "| y | - | - | - |" in as_markdown([measure(resting.curves(), resting)])


def test_the_probe_reads_what_the_listeners_read():
    audio = tone(1)
    rows = torch.from_numpy(encode(read_encoder(), BANK, audio))
    listeners = FrozenListeners(read_probe(), read_unet(home.AVATARS / "demo" / "unet.onnx").audio_model)
    with torch.no_grad():
        frames = rows_of_frames(rows)
        assert torch.equal(listeners.predicted(frames), read_probe()(frames))
        assert listeners.understood(frames).shape == (25, 7)
