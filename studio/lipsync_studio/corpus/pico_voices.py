"""Speaks sentences with Pico's English voices and aligns their phonemes. Runs in a Python environment of its own.

pip install 'setuptools<80' && pip install --no-build-isolation ttspico pocketsphinx

`speech_data.py --pico PYTHON` hands this source to that environment's interpreter, with the arguments SENTENCES.txt
OUT_DIR. So it imports nothing of this project.

Pico (Apache-2.0) does not report its phonemes' times. PocketSphinx (BSD, with its own model in the wheel) aligns the
text with the sound, in steps of 10 ms. Sentences that it cannot align are left out.
"""

from __future__ import annotations

import json
import re
import sys
import wave
from pathlib import Path

from pocketsphinx import Decoder
from ttspico import TtsEngine

SAMPLE_RATE = 16_000
VOICES = {"picous": "en-US", "picogb": "en-GB"}


def align(decoder: Decoder, text: str, audio: bytes) -> list[tuple[str, float]]:
    """ARPAbet phonemes with end times in seconds; empty if the text cannot be aligned with the audio."""
    decoder.set_align_text(" ".join(re.findall(r"[a-z']+", text.lower())))
    for second_pass in (False, True):
        if second_pass:
            decoder.set_alignment()
        decoder.start_utt()
        decoder.process_raw(audio, full_utt=True)
        decoder.end_utt()
        if not second_pass and not decoder.hyp():
            return []
    phones = [phone for word in decoder.get_alignment() for phone in word]
    return [("pau" if p.name == "SIL" else p.name.lower(), (p.start + p.duration) / 100) for p in phones]


def main(texts: Path, out: Path) -> None:
    lines, decoder = texts.read_text().splitlines(), Decoder(lm=None, samprate=SAMPLE_RATE)
    for turn, (name, language) in enumerate(VOICES.items()):
        engine = TtsEngine(language)
        for number, text in list(enumerate(lines))[turn :: len(VOICES)]:
            engine.rate, engine.pitch = (85, 100, 115)[number % 3], (100, 84, 116, 92)[number % 4]
            audio = engine.speak(text)
            try:
                phones = align(decoder, text, audio)
            except RuntimeError:  # a word that is not in its dictionary, or a failed alignment
                phones = []
            if not phones:
                print(f"not aligned: {text}")
                continue
            path = out / f"{name}_{number:04d}"
            with wave.open(str(path.with_suffix(".wav")), "wb") as file:
                file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
                file.writeframes(audio)
            path.with_suffix(".json").write_text(json.dumps({"text": text, "phones": phones}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
