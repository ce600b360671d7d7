"""Speaks sentences with Pico's English voices. Runs in a Python environment of its own.

pip install 'setuptools<80' && pip install --no-build-isolation ttspico

`speech_data.py --pico PYTHON` hands this source to that environment's interpreter, with the arguments SENTENCES.txt
OUT_DIR. So it imports nothing of this project.

Pico (Apache-2.0) does not report its phonemes' times: `alignment.py` finds them, from the .txt beside each file.
"""

from __future__ import annotations

import sys
import wave
from pathlib import Path

from ttspico import TtsEngine

SAMPLE_RATE = 16_000
VOICES = {"picous": "en-US", "picogb": "en-GB"}


def main(texts: Path, out: Path) -> None:
    lines = texts.read_text().splitlines()
    for turn, (name, language) in enumerate(VOICES.items()):
        engine = TtsEngine(language)
        for number, text in list(enumerate(lines))[turn :: len(VOICES)]:
            engine.rate, engine.pitch = (85, 100, 115)[number % 3], (100, 84, 116, 92)[number % 4]
            path = out / f"{name}_{number:04d}"
            with wave.open(str(path.with_suffix(".wav")), "wb") as file:
                file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
                file.writeframes(engine.speak(text))
            path.with_suffix(".txt").write_text(text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
