"""Recorded speech of real people as a corpus, and which readers only test it.

    python -m lipsync_studio.corpus.recordings RECORDINGS CORPUS

RECORDINGS holds audio files in any folders, each with a `.json` of the same name beside it: {"speaker", "set",
"text", "phones": [[name, end in s], ..]}. `alignment.py` makes such files from recordings and their texts. CORPUS
gets the format of `speech_data.py`. Files without phonemes are left out, and files that RECORDINGS/check.tsv reports
as aligned badly, if there is such a file.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import wave
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from lipsync_client.console import note, notes
from lipsync_client.errors import AudioError
from lipsync_client.media.audio import read_audio
from lipsync_mel.timeline import SAMPLE_RATE
from lipsync_studio.corpus.mouth_curves import Phone

SCHWA = 0.08  # s: aligners call the schwa "ah" too, and a stressed "ah" is seldom so short
# Of check.tsv. Above these, a text or its alignment is wrong.
LIMITS = {"loud_pause_share": 0.5, "quiet_vowel_share": 0.15, "longest_phone_s": 0.8}
SEED = 7
# How many voices only report results, and how many only choose between trainings. One speaker of a voice's collection
# may be unknown: such collections are trained on entirely.
COLLECTIONS = ("librivox", "libri", "coffee", "emodb", "wake", "mycroft")  # beginnings of voices' names
REPORTING = {"libri": 24, "emodb": 2}
CHOOSING = {"libri": 12, "emodb": 1}
ALWAYS_REPORTING = ("librivox", "ljspeech", "jfk")  # their texts are exact


def collection_of(voice: str) -> str:
    """The collection that a voice is from: `libri1034` is of `libri`. A voice of no collection is one itself."""
    return next((name for name in COLLECTIONS if voice.startswith(name)), voice)


def held_out(voices: Iterable[str]) -> tuple[set[str], set[str]]:
    """(voices that report results, voices that choose between trainings): the same ones for the same corpus.

    Neither is trained on. The rest is.
    """
    found = sorted(set(voices))
    reporting = {voice for voice in found if voice in ALWAYS_REPORTING}
    choosing: set[str] = set()
    for collection, count in REPORTING.items():
        own = [voice for voice in found if collection_of(voice) == collection and voice not in reporting]
        random.Random(SEED).shuffle(own)
        reporting.update(own[:count])
        choosing.update(own[count : count + CHOOSING[collection]])
    return reporting, choosing


def trained_voices(corpus: Path) -> set[str]:
    """The voices of a corpus that are trained on."""
    voices = {path.stem.split("_")[0] for path in corpus.glob("*.json")}
    return voices.difference(*held_out(voices))


def with_schwas(phones: Sequence[Phone]) -> list[Phone]:
    """The phonemes, each short `ah` as the schwa `ax`."""
    begins = [0.0, *(end for _, end in phones)]
    return [
        ("ax" if name == "ah" and end - begin < SCHWA else name, end)
        for begin, (name, end) in zip(begins, phones, strict=False)
    ]


def badly_aligned(check: Path) -> set[str]:
    """The names that a check.tsv reports beyond `LIMITS`; none if there is no such file."""
    if not check.exists():
        return set()
    with check.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {row["id"] for row in rows if any(float(row[name] or 0) > limit for name, limit in LIMITS.items())}


def write_speech(path: Path, audio: NDArray[np.float32], stated: Mapping[str, object]) -> None:
    """Write `path`.wav, 16-bit mono at 16 kHz, and `path`.json.

    Args:
        audio: FP32 [n] in [-1, 1].
    """
    with wave.open(str(path.with_suffix(".wav")), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((audio.clip(-1, 1) * 32767).astype("<i2").tobytes())
    path.with_suffix(".json").write_text(json.dumps(stated, ensure_ascii=False), encoding="utf-8")


def sound_beside(path: Path) -> Path | None:
    """The audio file that a .json or .txt belongs to."""
    others = (other for other in sorted(path.parent.iterdir()) if other.stem == path.stem)
    return next((other for other in others if other.suffix not in (".json", ".txt")), None)


def import_recordings(recordings: Path, corpus: Path) -> int:
    """Write all recordings with phonemes into a corpus. Returns their number.

    Raises:
        AudioError: a file cannot be read.
    """
    corpus.mkdir(parents=True, exist_ok=True)
    left_out, count = badly_aligned(recordings / "check.tsv"), 0
    for path in track(sorted(recordings.rglob("*.json")), description="recordings", console=notes):
        stated, sound = json.loads(path.read_text(encoding="utf-8")), sound_beside(path)
        if "phones" not in stated or path.stem in left_out or sound is None:
            continue
        kept = {name: stated[name] for name in ("text", "speaker", "set", "language", "licence") if name in stated}
        write_speech(corpus / path.stem, read_audio(sound), kept | {"phones": with_schwas(stated["phones"])})
        count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("corpus", type=Path)
    options = parser.parse_args()
    count = import_recordings(options.recordings, options.corpus)
    if not count:
        raise AudioError(f"{options.recordings}: no recordings with phonemes here")
    note(f"{options.corpus}: {count} recordings")


if __name__ == "__main__":
    main()
