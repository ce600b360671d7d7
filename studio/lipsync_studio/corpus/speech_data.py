"""Speech whose phonemes are known, from synthetic voices: the corpus, its augmentation, what networks see of it.

    PYTHONPATH=scripts python -m training.speech_data CORPUS [--piper PYTHON VOICE.onnx] [--pico PYTHON]

needs Debian's `flite`, `festvox-kdlpc16k` and `libespeak-ng1`; Piper and Pico are optional, each in an environment of
its own (see `piper_voice.py`, `pico_voices.py`). The corpus is `<voice>_<number>.wav`, 16 kHz, with
`<voice>_<number>.json` beside it: {"text", "phones": [[name, end in s], ..]} or, from eSpeak-based voices,
{"text", "ipa": [[mark, duration], ..]}.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track
from scipy.signal import butter, fftconvolve, iirpeak, lfilter
from scipy.signal.windows import tukey

from lipsync_mel import mel, timeline
from lipsync_studio.corpus.espeak_voices import VOICES, Espeak
from lipsync_studio.corpus.mouth_curves import Phone, phones_from_ipa
from lipsync_studio.corpus.sentences import sentences

FLITE_VOICES = ("slt", "rms", "kal16", "awb")
SENTENCES = 400  # of each of the larger voices
OF_EACH_ESPEAK = 50
PAD = timeline.SAMPLES_AFTER  # what clients append to a speech, so that every frame has real context


@dataclass(frozen=True)
class Speech:
    """One spoken sentence: FP32 samples at 16 kHz and its phonemes' end times in seconds."""

    name: str
    audio: np.ndarray
    phones: tuple[Phone, ...]

    @property
    def frames(self) -> int:
        return timeline.frame_total(len(self.audio))


def read_wav(path: Path) -> np.ndarray:
    """FP32 samples in [-1, 1] of a 16-bit mono file at 16 kHz."""
    with wave.open(str(path)) as file:
        if file.getparams()[:3] != (1, 2, timeline.SAMPLE_RATE):
            raise ValueError(f"{path}: must be mono, 16 bit, {timeline.SAMPLE_RATE} Hz")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def load_corpus(folder: Path, voices: set[str] | None = None) -> list[Speech]:
    """The corpus, or those voices of it, in the order of the names."""
    result = []
    for path in sorted(folder.glob("*.json")):
        if voices is not None and path.stem.split("_")[0] not in voices:
            continue
        notes = json.loads(path.read_text())
        phones = phones_from_ipa(notes["ipa"]) if "ipa" in notes else [(name, end) for name, end in notes["phones"]]
        result.append(Speech(path.stem, read_wav(path.with_suffix(".wav")), tuple(phones)))
    if not result:
        raise FileNotFoundError(f"{folder}: no speech here; make some with `python -m training.speech_data`")
    return result


def encoder_rows(filterbank, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The encoder's windows for all frames of a speech, computed by the serving stage's own code.

    Returns:
        FP32 [frames+15, 1, 80, 16], and FP32 [frames+15, 1], 0 for rows outside the feature list. Frame i reads the
        rows i .. i+15 of these.
    """
    whole = np.concatenate([audio, np.zeros(PAD, np.float32)])
    starts, inside = timeline.row_windows(0, timeline.frame_total(len(audio)), len(whole))
    windows = mel.encoder_windows(filterbank, whole, 0, len(whole), starts, inside)
    return windows, inside.astype(np.float32)[:, None]


def change_speed(speech: Speech, factor: float) -> Speech:
    """The speech played `factor` times as fast: pitch and formants move with it, as with another speaker's size."""
    at = np.arange(0, len(speech.audio) - 1, factor)
    audio = np.interp(at, np.arange(len(speech.audio)), speech.audio).astype(np.float32)
    return Speech(speech.name, audio, tuple((name, end / factor) for name, end in speech.phones))


def other_throat(windows: np.ndarray, *stretches: float) -> np.ndarray:
    """Windows [N,1,80,16] with their mel bands moved: formants as of a longer or shorter throat, at the same pace.

    Several stretches are those of the lowest to the highest bands: accents move the formants against each other.
    """
    bands = windows.shape[2]
    stretch = np.interp(np.linspace(0, 1, bands), np.linspace(0, 1, len(stretches)), stretches)
    at = np.clip(np.arange(bands) * stretch, 0, bands - 1.001)
    low, part = at.astype(int), (at % 1).astype(np.float32)[:, None]
    return windows[:, :, low] * (1 - part) + windows[:, :, low + 1] * part


def other_timbre(windows: np.ndarray, rng: np.random.Generator, most: float = 6.0) -> np.ndarray:
    """Windows [N,1,80,16] of a voice, or microphone, that is up to `most` dB stronger or weaker here and there."""
    bands = windows.shape[2]
    gain = np.interp(np.linspace(0, 6, bands), np.arange(7), rng.uniform(-most, most, 7)) * 0.08  # 100 dB are 8 units
    louder = np.clip(windows + gain[:, None], -4, 4).astype(np.float32)
    return np.where(windows > -4, louder, windows)  # below is silence


def add_silence(speech: Speech, before: float, after: float) -> Speech:
    """The speech between pauses of so many seconds."""
    rate = timeline.SAMPLE_RATE
    audio = np.concatenate(
        [np.zeros(int(before * rate), np.float32), speech.audio, np.zeros(int(after * rate), np.float32)]
    )
    phones = [("pau", before), *((name, end + before) for name, end in speech.phones), ("pau", len(audio) / rate)]
    return Speech(speech.name, audio, tuple(phones))


def add_breaths(speech: Speech, rng: np.random.Generator) -> Speech:
    """The speech with the breaths that people take in their pauses and synthetic voices do not."""
    audio, rate = speech.audio.copy(), timeline.SAMPLE_RATE
    loud = float(np.sqrt(np.percentile(np.square(audio), 90)))
    begins = [0.0, *(end for _, end in speech.phones)]
    for begin, (name, end) in zip(begins, speech.phones, strict=False):
        length = rng.uniform(0.12, 0.6)
        if name != "pau" or end - begin < length + 0.08 or rng.random() < 0.5:
            continue
        first, count = int(rng.uniform(begin + 0.04, end - length - 0.04) * rate), int(length * rate)
        audio[first : first + count] += loud * 10 ** (-rng.uniform(14, 38) / 20) * _breath(rng, count)
    return Speech(speech.name, audio, speech.phones)


def _breath(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Air drawn in, of unit power at its loudest: noise that a throat colours like a whispered vowel."""
    rate, noise = timeline.SAMPLE_RATE, _noise(rng, samples)
    air = lfilter(*butter(1, [rng.uniform(150, 900), rng.uniform(1800, 6500)], "bandpass", fs=rate), noise)
    for at in rng.uniform([300, 1000, 2500], [900, 2200, 4500])[: rng.integers(4)]:  # resonances
        air += rng.uniform(0.3, 1.5) * lfilter(*iirpeak(at, rng.uniform(2, 9), fs=rate), noise)
    return air / max(air.std(), 1e-9) * tukey(samples, rng.uniform(0.1, 1))


def _noise(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Noise of unit power with a random tilt, from hiss to rumble."""
    x = lfilter([1], [1, -rng.uniform(0, 0.98)], rng.standard_normal(samples))
    return x / max(x.std(), 1e-9)


def roughen(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What rooms, microphones and levels do to speech; its timing stays."""
    x, rate = audio.astype(np.float64), timeline.SAMPLE_RATE
    if rng.random() < 0.5:  # a room: the direct sound and a decaying tail
        tail = rng.standard_normal(int(0.3 * rate)) * np.exp(
            -np.arange(int(0.3 * rate)) / (rng.uniform(0.02, 0.1) * rate)
        )
        tail *= rng.uniform(0.1, 0.7) / np.sqrt(np.square(tail).sum())
        tail[0] += 1
        x = fftconvolve(x, tail)[: len(x)]
    if rng.random() < 0.5:  # a microphone: brighter or duller
        low = lfilter(*butter(1, rng.uniform(300, 3000), fs=rate), x)
        x = x + rng.uniform(-0.7, 2) * low
    if rng.random() < 0.3:  # a narrow line
        x = lfilter(*butter(2, [rng.uniform(60, 300), rng.uniform(3400, 7500)], "bandpass", fs=rate), x)
    power = np.sqrt(np.square(x).mean()) + 1e-9
    x = x + power * 10 ** (-rng.uniform(8, 55) / 20) * _noise(rng, len(x))
    if rng.random() < 0.2:  # hum
        x = x + power * 10 ** (-rng.uniform(10, 40) / 20) * np.sin(
            2 * np.pi * rng.choice([50, 60, 100]) * np.arange(len(x)) / rate
        )
    x *= 10 ** (rng.uniform(-32, -1) / 20) / (np.abs(x).max() + 1e-9)
    return x.astype(np.float32)


def speak_with_flite(voice: str, text: str, path: Path) -> None:
    """Writes `path`.wav and `path`.json."""
    command = ["flite", "-voice", voice, "-psdur", "-t", text, "-o", str(path.with_suffix(".wav"))]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    phones = [[mark.rsplit(":", 1)[0], float(mark.rsplit(":", 1)[1])] for mark in printed.split()]
    path.with_suffix(".json").write_text(json.dumps({"text": text, "phones": phones}))


def speak_with_festival(texts: list[str], folder: Path) -> None:
    """Writes `ked_<number>.wav` and .json for each text."""
    lines = ["(voice_ked_diphone)"]
    for number, text in enumerate(texts):
        path = folder.resolve() / f"ked_{number:04d}"
        lines.append(f'(set! said (utt.synth (Utterance Text "{text}")))')
        lines.append(f'(utt.save.wave said "{path}.wav" \'riff) (utt.save.segs said "{path}.segments")')
    subprocess.run(["festival", "--pipe"], input="\n".join(lines), text=True, check=True, timeout=1800)
    for number, text in enumerate(texts):
        segments = folder / f"ked_{number:04d}.segments"
        rows = [line.split() for line in segments.read_text().splitlines() if line != "#"]
        phones = [[name, float(end)] for end, _, name in rows]
        segments.with_suffix(".json").write_text(json.dumps({"text": text, "phones": phones}))
        segments.unlink()


def speak_with_espeak(voices: tuple[str, ...], texts: list[str], folder: Path) -> None:
    """Writes `espeak<number of voice>_<number>.wav` and .json, each text with the next voice."""
    engine = Espeak()
    for number, text in track(list(enumerate(texts)), description="espeak"):
        turn = number % len(voices)
        audio, marks = engine.speak(voices[turn], (130, 150, 165, 185)[number // len(voices) % 4], text)
        path = folder / f"espeak{turn}_{number:04d}"
        with wave.open(str(path.with_suffix(".wav")), "wb") as file:
            file.setparams((1, 2, timeline.SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(audio.tobytes())
        path.with_suffix(".json").write_text(json.dumps({"text": text, "ipa": marks}, ensure_ascii=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--piper", nargs=2, metavar=("PYTHON", "VOICE"), help="adds a Piper voice")
    parser.add_argument("--pico", metavar="PYTHON", help="adds two Pico voices")
    options = parser.parse_args()
    options.corpus.mkdir(parents=True, exist_ok=True)
    for number, voice in enumerate(FLITE_VOICES):
        texts = sentences(SENTENCES, seed=number)
        for index, text in track(list(enumerate(texts)), description=f"flite {voice}"):
            speak_with_flite(voice, text, options.corpus / f"{voice}_{index:04d}")
    listing, scripts = options.corpus / "sentences.txt", Path(__file__).parent
    if options.piper:
        listing.write_text("\n".join(sentences(SENTENCES, seed=4)))
        command = [options.piper[0], scripts / "piper_voice.py", options.piper[1], listing, options.corpus]
        subprocess.run(command, check=True, timeout=3600)
    speak_with_festival(sentences(SENTENCES, seed=5), options.corpus)
    speak_with_espeak(VOICES, sentences(OF_EACH_ESPEAK * len(VOICES), seed=6), options.corpus)
    if options.pico:
        listing.write_text("\n".join(sentences(2 * SENTENCES, seed=7)))
        subprocess.run([options.pico, scripts / "pico_voices.py", listing, options.corpus], check=True, timeout=3600)


if __name__ == "__main__":
    main()
