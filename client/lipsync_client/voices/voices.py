"""Chooses the voice that speaks a text."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from lipsync_client.errors import LipsyncError
from lipsync_client.voices.voice import LANGUAGES, Sound, Voice, check_language, language_of

__all__ = ["Voices"]


class Voices:
    """The voices that are offered, in order of preference.

    Args:
        voices: at least one.
    """

    def __init__(self, voices: Sequence[Voice]) -> None:
        self._voices = {voice.name: voice for voice in voices}

    @property
    def name(self) -> str:
        """The names of all."""
        return ", ".join(self._voices)

    @property
    def offered(self) -> list[dict[str, object]]:
        """Each voice's name and the languages that it speaks; null for any."""
        return [
            {"name": voice.name, "languages": None if voice.languages is None else sorted(voice.languages)}
            for voice in self._voices.values()
        ]

    def check(self, text: str, voice: str | None = None, language: str | None = None) -> tuple[Voice, str, str]:
        """What `speak` does with the same arguments: the voice, the text as it is spoken, its language.

        Raises:
            LipsyncError: see `speak`.
        """
        text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
        if not any(sign.isalnum() for sign in text):
            raise LipsyncError("There is nothing in that text that can be spoken.")
        tag = check_language(language) if language else language_of(text)
        if voice and voice not in self._voices:
            raise LipsyncError(f"There is no voice {voice[:40]!r} here; there is {self.name}.")
        asked = [self._voices[voice]] if voice else list(self._voices.values())
        for one in asked:
            if one.languages is None or tag in one.languages or tag.partition("-")[0] in one.languages:
                return one, text, tag
        who = f"The voice {voice}" if voice else f"No voice on this server ({self.name})"
        raise LipsyncError(f"{who} {'does not speak' if voice else 'speaks'} {LANGUAGES.get(tag, tag)}.")

    async def speak(
        self, text: str, *, voice: str | None = None, language: str | None = None
    ) -> AsyncGenerator[Sound, None]:
        """Speak a text, in pieces, each as soon as it is there.

        Args:
            text: control characters count as spaces.
            voice: its name; the first one that speaks the language if None.
            language: a tag such as `de` or `pt-br`; None: the one that the text's script tells, or English.

        Raises:
            LipsyncError: there is nothing to speak, no such voice or none for the language, or the voice failed.
        """
        chosen, text, tag = self.check(text, voice, language)
        async with aclosing(chosen.speak(text, tag)) as sounds:
            async for sound in sounds:
                yield sound
