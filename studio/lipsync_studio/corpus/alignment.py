"""Phoneme times of recordings whose text is known, by forced alignment. English only.

    python -m lipsync_studio.corpus.alignment RECORDINGS CORPUS

RECORDINGS holds audio files of any format, each with its text in a `.txt` of the same name beside it, or LibriSpeech's
folders. CORPUS gets the format of `speech_data.py`. A file's voice is its name up to the first `_`.

PocketSphinx aligns, with the English model in its wheel, in steps of 10 ms. flite, if it is installed, pronounces words
that are not in the model's dictionary. Recordings that cannot be aligned are left out, with a note that says why.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pocketsphinx import Decoder
from rich.progress import track

from lipsync_client.console import note, notes
from lipsync_client.errors import LipsyncError
from lipsync_client.media.audio import read_audio
from lipsync_mel.timeline import SAMPLE_RATE
from lipsync_studio.corpus.mouth_curves import Phone
from lipsync_studio.corpus.recordings import LIMITS, sound_beside, with_schwas, write_speech

LATIN = {"ax": "AH", "axr": "ER", "dx": "T", "el": "L", "em": "M", "en": "N", "nx": "N", "hv": "HH"}  # flite's -> CMU's


class AlignmentError(LipsyncError):
    """A text does not fit its recording; the message says why."""


def words_of(text: str) -> list[str]:
    """The words of a text, as the dictionary spells them."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())


class Aligner:
    """Aligns texts with recordings.

    Raises:
        LipsyncError: PocketSphinx has no model.
    """

    def __init__(self) -> None:
        # The best path would drop phonemes that are too short for it.
        self._decoder = Decoder(lm=None, samprate=SAMPLE_RATE, bestpath=False, loglevel="FATAL")

    def align(self, text: str, audio: NDArray[np.float32]) -> list[Phone]:
        """ARPAbet phonemes with end times in seconds; silence is `pau`, a short `ah` the schwa `ax`.

        Args:
            text: what is said, in English.
            audio: FP32 [n] at 16 kHz.

        Raises:
            AlignmentError: it cannot be aligned, or the result is not credible.
        """
        words = words_of(text)
        if not words:
            raise AlignmentError("the text has no words")
        self._learn(words)
        sound = (audio.clip(-1, 1) * 32767).astype("<i2").tobytes()
        self._decoder.set_align_text(" ".join(words))
        for second_pass in (False, True):
            try:
                if second_pass:
                    self._decoder.set_alignment()
                self._decoder.start_utt()
                self._decoder.process_raw(sound, full_utt=True)
                self._decoder.end_utt()
            except RuntimeError as error:
                raise AlignmentError("the text does not fit the sound") from error
            if not second_pass and not self._decoder.hyp():
                raise AlignmentError("the text does not fit the sound")
        phones = [phone for word in self._decoder.get_alignment() for phone in word]
        found = [("pau" if p.name == "SIL" else p.name.lower(), (p.start + p.duration) / 100) for p in phones]
        _check(found)
        return with_schwas(found)

    def _learn(self, words: Sequence[str]) -> None:
        """Add the words that the dictionary lacks, as flite pronounces them."""
        for word in {word for word in words if self._decoder.lookup_word(word) is None}:
            if not shutil.which("flite"):
                raise AlignmentError(f"{word!r} is not in the dictionary: install flite, which pronounces it")
            command = ["flite", "-voice", "slt", "-ps", "-t", word, "-o", "none"]
            said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
            phones = [LATIN.get(name, name.upper()) for name in said if name != "pau"]
            self._decoder.add_word(word, " ".join(phones), True)


def _check(phones: Sequence[Phone]) -> None:
    """Refuse an alignment with an incredibly long phoneme: there the text and the sound differ."""
    longest = max(end - begin for (_, begin), (name, end) in pairwise([("pau", 0.0), *phones]) if name != "pau")
    if longest > LIMITS["longest_phone_s"]:
        raise AlignmentError(f"one phoneme would last {longest:.1f} s: text and sound differ")


class Recording(NamedTuple):
    """A recording with its text, and the name that it gets in the corpus."""

    name: str
    sound: Path
    text: str


def recordings_in(folder: Path) -> list[Recording]:
    """The recordings in a folder and below. LibriSpeech keeps the texts of a chapter in one file, `*.trans.txt`."""
    found = []
    for path in sorted(folder.rglob("*.txt")):
        text = path.read_text(encoding="utf-8")
        if not path.name.endswith(".trans.txt"):
            if sound := sound_beside(path):
                found.append(Recording(path.stem, sound, text))
            continue
        for line in text.splitlines():
            number, _, said = line.partition(" ")
            reader, _, rest = number.partition("-")
            sound = path.with_name(f"{number}.flac")
            if sound.exists():
                found.append(Recording(f"libri{reader}_{rest}", sound, said))
    return found


def align_recordings(recordings: Path, corpus: Path) -> int:
    """Align all recordings that have a text, and write them into a corpus. Returns their number.

    Raises:
        AudioError: a file cannot be read.
        LipsyncError: PocketSphinx has no model.
    """
    corpus.mkdir(parents=True, exist_ok=True)
    aligner, count = Aligner(), 0
    for recording in track(recordings_in(recordings), description="aligning", console=notes):
        audio = read_audio(recording.sound)
        try:
            phones = aligner.align(recording.text, audio)
        except AlignmentError as error:
            note(f"{recording.sound}: left out: {error}")
            continue
        write_speech(corpus / recording.name, audio, {"text": recording.text.strip(), "phones": phones})
        count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("corpus", type=Path)
    options = parser.parse_args()
    count = align_recordings(options.recordings, options.corpus)
    if not count:
        raise AlignmentError(f"{options.recordings}: no recording could be aligned with its text")
    note(f"{options.corpus}: {count} recordings")


if __name__ == "__main__":
    main()
