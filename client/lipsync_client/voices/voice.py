"""What a voice is, and in which language a text is."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol

from lipsync_client.errors import LipsyncError

__all__ = ["LANGUAGES", "Sound", "Voice", "check_language", "language_of"]

# English names of the languages that a script tells.
LANGUAGES = {
    "en": "English",
    "zh": "Chinese",
    "ja": "Japanese",
    "ko": "Korean",
    "ru": "Russian",
    "el": "Greek",
    "ar": "Arabic",
    "he": "Hebrew",
    "hi": "Hindi",
    "bn": "Bengali",
    "ta": "Tamil",
    "te": "Telugu",
    "th": "Thai",
    "ka": "Georgian",
    "hy": "Armenian",
}
# First word of a letter's Unicode name -> the language that has most speakers among those that use the script.
SCRIPTS = {
    "CJK": "zh",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "CYRILLIC": "ru",
    "GREEK": "el",
    "ARABIC": "ar",
    "HEBREW": "he",
    "DEVANAGARI": "hi",
    "BENGALI": "bn",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
}
EAST_ASIAN = ("ja", "ko", "zh")
TAG = re.compile(r"[a-z]{2,3}(-[a-z0-9]{1,8}){0,3}")


class Sound(NamedTuple):
    """A piece of speech: 16-bit little-endian mono samples, and how many a second."""

    pcm: bytes
    rate: int


class Voice(Protocol):
    """Speaks texts.

    Attributes:
        name: what callers choose it by.
        languages: tags such as `en` and `pt-br`, in lower case; None: it speaks any.
    """

    @property
    def name(self) -> str: ...

    @property
    def languages(self) -> frozenset[str] | None: ...

    def speak(self, text: str, language: str) -> AsyncGenerator[Sound, None]:
        """Speak a text, in pieces of one rate, each as soon as it is there.

        Args:
            text: printable, with a letter or digit in it.
            language: one that it speaks.

        Raises:
            LipsyncError: it could not; the sentence is for the person who wrote the text.
        """


def language_of(text: str) -> str:
    """The language that a text's script tells; English for the Latin script, which tells none.

    One Chinese, Japanese or Korean letter decides, because a voice that cannot read it leaves out a word or more. Of
    other scripts, that with most letters counts.
    """
    found = Counter(
        SCRIPTS.get(unicodedata.name(letter, "").partition(" ")[0], "en") for letter in text if letter.isalpha()
    )
    for language in EAST_ASIAN:  # Japanese writes Chinese letters too, and so may Korean
        if found[language]:
            return language
    return found.most_common(1)[0][0] if found else "en"


def check_language(tag: str) -> str:
    """A language tag as voices list it. Raises LipsyncError."""
    language = tag.strip().lower().replace("_", "-")
    if not TAG.fullmatch(language):
        raise LipsyncError(f"{tag[:40]!r} is no language: give a tag such as en, de or pt-br.")
    return language
