"""Speech and other sounds that test an encoder and an avatar. Neither was trained on them.

    python -m lipsync_studio.evaluation.evaluation_sounds OUT [--real CORPUS] [--synthetic CORPUS]

writes into OUT what `lipsync avatars evaluate --speech` and `lipsync_studio.training.encoder_evaluation` read:

- `readers`, `exact`, `german`: the reporting voices of `corpus.recordings.held_out` in the corpus CORPUS of real
  people, up to 6 s of each speech. The texts of `readers` were recognized, those of the two others are known.
- `awb`: sentences of the voice that was not trained on.
- `music_*` and `noise_*`, ten kinds together, and `breath`: the mouth must stay closed. Their makers share nothing with
  `corpus.non_speech`, whose sounds are trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sawtooth

from lipsync_client.console import note
from lipsync_mel.timeline import FPS, SAMPLE_RATE
from lipsync_studio.corpus.augmentation import excerpt
from lipsync_studio.corpus.recordings import ALWAYS_REPORTING, collection_of, held_out, write_speech
from lipsync_studio.corpus.speech_data import Speech, load_corpus, voices_of
from lipsync_studio.evaluation.recording import RenderedSpeech, joined

SECONDS = 6  # of a speech
OF_A_VOICE = {"emodb": 20, "libri": 1}  # speeches; of the others `FEW`
FEW = 4
LENGTH = 5  # s, of a sound without speech
LEVEL = -15  # dB of full scale at the loudest sample, of a sound without speech
Signal = NDArray[np.float64]
RNG = np.random.Generator


def _time() -> Signal:
    return np.arange(LENGTH * SAMPLE_RATE) / SAMPLE_RATE


def _band(x: Signal, low: float, high: float) -> Signal:
    return np.asarray(lfilter(*butter(2, [low, high], "bandpass", fs=SAMPLE_RATE), x))


def _white(rng: RNG) -> Signal:
    return np.asarray(rng.standard_normal(LENGTH * SAMPLE_RATE))


def _pink(rng: RNG) -> Signal:
    spectrum = np.fft.rfft(_white(rng))
    return np.asarray(np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 20.0)))


def _traffic(rng: RNG) -> Signal:
    passing = 0.3 + np.exp(-np.square((_time() - 1.5) / 0.7)) + np.exp(-np.square((_time() - 4) / 0.4))
    return np.asarray(_band(_white(rng), 30, 500) * passing + 0.05 * _white(rng) * passing**2)


def _fan(rng: RNG) -> Signal:
    blades = sum(np.sin(2 * np.pi * 87 * k * _time() + k * k) / k for k in range(1, 12))
    return np.asarray(blades + 0.7 * _band(_white(rng), 100, 3000))


def _typing(rng: RNG) -> Signal:
    out = np.zeros(LENGTH * SAMPLE_RATE)
    for at in np.cumsum(rng.gamma(4, 0.04, 40)):
        for later, gain in ((0.0, 1.0), (rng.uniform(0.05, 0.09), 0.5)):  # a key goes down and comes up
            since = _time() - at - later
            out += gain * np.where(since > 0, np.exp(-np.maximum(since, 0) / 0.004), 0)
    return _band(out * _white(rng), 800, 6000) + 1e-3 * _white(rng)


def _rain(rng: RNG) -> Signal:
    drops = np.where(rng.random(LENGTH * SAMPLE_RATE) < 0.01, rng.exponential(1, LENGTH * SAMPLE_RATE), 0)
    return _band(np.convolve(drops, np.exp(-np.arange(80) / 12))[: len(drops)], 1500, 7000) + 0.02 * _white(rng)


def _notes(rng: RNG, seconds: float, voice: Callable[[float, Signal], Signal], chord: tuple[int, ...]) -> Signal:
    """A walk over a major scale, one note (or chord) after the other."""
    out, degree = np.zeros(LENGTH * SAMPLE_RATE), 7
    for at in np.arange(0, LENGTH, seconds):
        degree = int(np.clip(degree + rng.integers(-2, 3), 0, 14))
        pitch = 48 + 12 * (degree // 7) + (0, 2, 4, 5, 7, 9, 11)[degree % 7]
        count = min(int(1.5 * seconds * SAMPLE_RATE), len(out) - int(at * SAMPLE_RATE))
        for step in chord:
            since = np.arange(count) / SAMPLE_RATE
            out[int(at * SAMPLE_RATE) :][:count] += voice(440 * 2 ** ((pitch + step - 69) / 12), since)
    return out


def _piano(rng: RNG) -> Signal:
    def string(pitch: float, since: Signal) -> Signal:
        partials = [
            np.sin(2 * np.pi * k * pitch * np.sqrt(1 + 4e-4 * k * k) * since) * np.exp(-since * (1 + k)) / k
            for k in range(1, 9)
        ]
        return np.asarray(np.sum(partials, axis=0) * np.minimum(1, since / 0.002))

    return _notes(rng, 0.25, string, (0, 7))


def _strings(rng: RNG) -> Signal:
    def bowed(pitch: float, since: Signal) -> Signal:
        bow = sawtooth(2 * np.pi * pitch * since + 0.8 * np.sin(2 * np.pi * 5.5 * since))
        return np.asarray(lfilter(*butter(2, 2500, fs=SAMPLE_RATE), bow) * np.sin(np.pi * since / since[-1]) ** 0.5)

    return _notes(rng, 1.25, bowed, (0, 4, 7, 12))


def _drums(rng: RNG) -> Signal:
    out = np.zeros(LENGTH * SAMPLE_RATE)
    for number, at in enumerate(np.arange(0, LENGTH, 0.25)):
        since = np.maximum(_time() - at, 0)
        struck = np.where(_time() >= at, 1.0, 0.0)
        if number % 4 == 0:
            out += struck * np.sin(2 * np.pi * 55 * since + 6 * np.exp(-since / 0.03)) * np.exp(-since / 0.1)
        if number % 4 == 2:
            out += struck * 0.5 * _white(rng) * np.exp(-since / 0.05)
        out += (
            struck * 0.15 * lfilter(*butter(2, 5000, "highpass", fs=SAMPLE_RATE), _white(rng)) * np.exp(-since / 0.02)
        )
    return out


def _flute(rng: RNG) -> Signal:
    air = _band(_white(rng), 1000, 5000)

    def blown(pitch: float, since: Signal) -> Signal:
        phase = 2 * np.pi * 4 * pitch * since + np.sin(2 * np.pi * 5 * since)
        tone = np.sin(phase) + 0.2 * np.sin(2 * phase) + 0.1 * air[: len(since)]
        return np.asarray(tone * np.minimum(1, since / 0.06) * np.minimum(1, (since[-1] - since) / 0.06))

    return _notes(rng, 0.5, blown, (0,))


def _breath(rng: RNG) -> Signal:
    moved = np.maximum(0, np.sin(2 * np.pi * _time() / 2.5)) ** 0.7
    return np.asarray((_band(_white(rng), 400, 1800) + 0.5 * _band(_white(rng), 1800, 6000)) * moved)


SOUNDS: dict[str, Callable[[RNG], Signal]] = {
    "noise_white": _white,
    "noise_pink": _pink,
    "noise_traffic": _traffic,
    "noise_fan": _fan,
    "noise_typing": _typing,
    "noise_rain": _rain,
    "music_piano": _piano,
    "music_strings": _strings,
    "music_drums": _drums,
    "music_flute": _flute,
    "breath": _breath,
}


def sound(name: str) -> NDArray[np.float32]:
    """One of `SOUNDS`, always the same, FP32 [n] at 16 kHz."""
    x = SOUNDS[name](np.random.default_rng(list(SOUNDS).index(name)))
    return np.asarray(x * 10 ** (LEVEL / 20) / np.abs(x).max(), np.float32)


def _short(speech: Speech) -> RenderedSpeech:
    part = excerpt(speech, 0, SECONDS * FPS)
    return RenderedSpeech(part.name, part.audio, part.phones)


def groups_of(corpus: Path) -> dict[str, list[RenderedSpeech]]:
    """The reporting voices of a corpus of real people: `readers`, `exact` and `german`."""
    groups: dict[str, list[RenderedSpeech]] = {"readers": [], "exact": [], "german": []}
    reporting, _ = held_out(voices_of(corpus))
    for voice in sorted(reporting):
        collection = collection_of(voice)
        name = "german" if collection == "emodb" else "exact" if voice in ALWAYS_REPORTING else "readers"
        speeches = load_corpus(corpus, {voice})
        count = OF_A_VOICE.get(collection, FEW)
        groups[name] += map(_short, speeches[:: max(1, len(speeches) // count)][:count])
    return {name: speeches for name, speeches in groups.items() if speeches}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--real", type=Path, help="corpus of real people, from lipsync_studio.corpus.recordings")
    parser.add_argument("--synthetic", type=Path, help="corpus of lipsync_studio.corpus.speech_data, with awb")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    groups = groups_of(options.real) if options.real else {}
    if options.synthetic:
        groups["awb"] = [*map(_short, load_corpus(options.synthetic, {"awb"})[:24])]
    for name, speeches in groups.items():
        whole = joined(name, speeches)
        write_speech(options.out / name, whole.audio, {"phones": whole.phones})
        note(f"{name}: {len(speeches)} speeches, {len(whole.audio) / SAMPLE_RATE:.0f} s")
    for name in SOUNDS:
        write_speech(options.out / name, sound(name), {"phones": [["pau", LENGTH]]})


if __name__ == "__main__":
    main()
