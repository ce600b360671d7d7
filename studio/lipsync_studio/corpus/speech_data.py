"""The speech corpus: synthetic speech whose phonemes and times are known, and the encoder's input for it.

    python -m lipsync_studio.corpus.speech_data CORPUS [--piper PYTHON VOICE.onnx] [--pico PYTHON]

makes the corpus. It needs Debian's `flite`, `festvox-kdlpc16k` and `libespeak-ng1`. Piper and Pico are optional. Each
of them needs a Python environment of its own (see `piper_voice.py` and `pico_voices.py`); PYTHON is that environment's
interpreter.

The corpus is a folder of `<voice>_<number>.wav`, 16 kHz mono, each with `<voice>_<number>.json` beside it:
{"text", "phones": [[name, end in s], ..]}, or {"text", "ipa": [[mark, duration in s], ..]} from voices with eSpeak's
phonemes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy.sparse import csr_matrix

from lipsync_client.console import notes
from lipsync_mel import mel, timeline
from lipsync_studio.corpus.alignment import align_recordings
from lipsync_studio.corpus.espeak_voices import VOICES, Espeak
from lipsync_studio.corpus.mouth_curves import Phone, phones_from_ipa
from lipsync_studio.corpus.sentences import sentences

FLITE_VOICES = ("slt", "rms", "kal16", "awb")
SENTENCES = 400  # of each of the larger voices
SENTENCES_PER_ESPEAK_VOICE = 50
ESPEAK_RATES = (130, 150, 165, 185)  # words a minute
PAD = timeline.SAMPLES_AFTER  # clients append as many zeros to a speech, so that every frame has real look-ahead


@dataclass(frozen=True)
class Speech:
    """One spoken sentence: FP32 samples at 16 kHz and its phonemes' end times in seconds."""

    name: str
    audio: NDArray[np.float32]
    phones: tuple[Phone, ...]

    @property
    def frames(self) -> int:
        """Number of video frames."""
        return timeline.frame_total(len(self.audio))


def read_wav(path: Path) -> NDArray[np.float32]:
    """FP32 samples in [-1, 1] of a 16-bit mono file at 16 kHz.

    Raises:
        ValueError: the file has another format.
    """
    with wave.open(str(path)) as file:
        if file.getparams()[:3] != (1, 2, timeline.SAMPLE_RATE):
            raise ValueError(f"{path}: must be mono, 16 bit, {timeline.SAMPLE_RATE} Hz")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def read_phones(path: Path) -> tuple[Phone, ...]:
    """The phonemes of a corpus's .json file, with end times in seconds."""
    stated = json.loads(path.read_text(encoding="utf-8"))
    if "ipa" in stated:
        return tuple(phones_from_ipa(stated["ipa"]))
    return tuple((str(name), float(end)) for name, end in stated["phones"])


def voices_of(folder: Path) -> set[str]:
    """The names of a corpus's voices."""
    return {path.stem.split("_")[0] for path in folder.glob("*.json")}


def load_corpus(folder: Path, voices: set[str] | None = None) -> list[Speech]:
    """The corpus, or some of its voices, in the order of the file names.

    Raises:
        FileNotFoundError: the folder has no speech of these voices.
    """
    result = [
        Speech(path.stem, read_wav(path.with_suffix(".wav")), read_phones(path))
        for path in sorted(folder.glob("*.json"))
        if voices is None or path.stem.split("_")[0] in voices
    ]
    if not result:
        raise FileNotFoundError(f"{folder}: no speech here. Run python -m lipsync_studio.corpus.speech_data {folder}")
    return result


def encoder_rows(filterbank: csr_matrix, audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The encoder windows for all frames of a speech, computed by the serving stage's own code.

    Returns:
        FP32 [frames+15, 1, 80, 16], and FP32 [frames+15, 1], 0 for rows outside the feature list. Frame i reads the
        rows i .. i+15 of these.
    """
    whole = np.concatenate([audio, np.zeros(PAD, np.float32)])
    starts, inside = timeline.row_windows(0, timeline.frame_total(len(audio)), len(whole))
    windows = mel.encoder_windows(filterbank, whole, 0, len(whole), starts, inside)
    return windows, inside.astype(np.float32)[:, None]


def speak_with_flite(voice: str, text: str, path: Path) -> None:
    """Write `path`.wav and `path`.json."""
    command = ["flite", "-voice", voice, "-psdur", "-t", text, "-o", str(path.with_suffix(".wav"))]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    phones = [[mark.rsplit(":", 1)[0], float(mark.rsplit(":", 1)[1])] for mark in printed.split()]
    path.with_suffix(".json").write_text(json.dumps({"text": text, "phones": phones}))


def speak_with_festival(texts: Sequence[str], folder: Path) -> None:
    """Write `ked_<number>.wav` and .json for each text."""
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


def speak_with_espeak(voices: Sequence[str], texts: Sequence[str], folder: Path) -> None:
    """Write `espeak<number of voice>_<number>.wav` and .json: the voices take turns."""
    engine = Espeak()
    for number, text in track(list(enumerate(texts)), description="espeak", console=notes):
        turn = number % len(voices)
        rate = ESPEAK_RATES[number // len(voices) % len(ESPEAK_RATES)]
        audio, marks = engine.speak(voices[turn], rate, text)
        path = folder / f"espeak{turn}_{number:04d}"
        with wave.open(str(path.with_suffix(".wav")), "wb") as file:
            file.setparams((1, 2, timeline.SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(audio.tobytes())
        path.with_suffix(".json").write_text(json.dumps({"text": text, "ipa": marks}, ensure_ascii=False))


def run_in_environment(python: str, module: str, *arguments: str | Path) -> None:
    """Run a module of this package in another Python environment, where the package is not installed.

    The module's source is handed over, so the module must not import anything of this project.
    """
    source = files("lipsync_studio.corpus").joinpath(f"{module}.py").read_text(encoding="utf-8")
    subprocess.run([python, "-c", source, *map(str, arguments)], check=True, timeout=3600)


def make_corpus(
    folder: Path, piper: tuple[str, str] | None = None, pico: str | None = None, count: int = SENTENCES
) -> None:
    """Speak `count` sentences with each of the larger voices, and some with each voice of eSpeak.

    Args:
        piper: a Python interpreter that has Piper, and the voice's .onnx file.
        pico: a Python interpreter that has Pico.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = folder / "sentences.txt"
    for seed, voice in enumerate(FLITE_VOICES):
        for number, text in track(list(enumerate(sentences(count, seed))), description=f"flite {voice}", console=notes):
            speak_with_flite(voice, text, folder / f"{voice}_{number:04d}")
    if piper:
        python, voice_file = piper
        texts.write_text("\n".join(sentences(count, seed=4)))
        run_in_environment(python, "piper_voice", voice_file, texts, folder)
    speak_with_festival(sentences(count, seed=5), folder)
    per_voice = min(count, SENTENCES_PER_ESPEAK_VOICE)
    speak_with_espeak(VOICES, sentences(per_voice * len(VOICES), seed=6), folder)
    if pico:
        texts.write_text("\n".join(sentences(2 * count, seed=7)))
        with tempfile.TemporaryDirectory() as unaligned:
            run_in_environment(pico, "pico_voices", texts, unaligned)
            align_recordings(Path(unaligned), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--piper", nargs=2, metavar=("PYTHON", "VOICE"), help="adds a Piper voice")
    parser.add_argument("--pico", metavar="PYTHON", help="adds two Pico voices")
    options = parser.parse_args()
    make_corpus(options.corpus, options.piper, options.pico)


if __name__ == "__main__":
    main()
