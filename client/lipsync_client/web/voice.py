"""Text as speech, by a synthesiser that is installed on this machine."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import unicodedata
import wave
from pathlib import Path

from lipsync_client.errors import LipsyncError

__all__ = ["Voice"]

# The text comes by standard input: nothing of it is an argument, and no shell is involved.
PROGRAMS = {
    "flite": ("-voice", "slt", "-f", "-", "-o"),
    "espeak-ng": ("--stdin", "-w"),
}
TIME_OUT = 20.0  # seconds


class Voice:
    """A speech synthesiser. `name` is its program's."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self._path = path

    @classmethod
    def find(cls) -> Voice | None:
        """The first one on PATH of those that are known; None if there is none."""
        for name in PROGRAMS:
            if path := shutil.which(name):
                return cls(name, path)
        return None

    async def say(self, text: str) -> tuple[bytes, int]:
        """Speak a text.

        Returns:
            16-bit little-endian mono samples, and how many a second.

        Raises:
            LipsyncError: there was nothing to speak, or the program failed or took too long.
        """
        text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
        if self.name == "flite":  # knows ASCII only
            text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        if not any(sign.isalnum() for sign in text):
            raise LipsyncError(f"There is nothing in that text that {self.name} can speak.")
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "speech.wav"
            await self._run(text, target)
            try:
                with wave.open(str(target)) as speech:
                    sound, rate, shape = speech.readframes(-1), speech.getframerate(), speech.getparams()[:2]
            except (OSError, EOFError, wave.Error):
                raise LipsyncError(f"{self.name} could not speak that text.") from None
        if shape != (1, 2):
            raise LipsyncError(f"{self.name} gave sound of {shape} channels and bytes a sample, not (1, 2).")
        return sound, rate

    async def _run(self, text: str, target: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            self._path,
            *PROGRAMS[self.name],
            target,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await asyncio.wait_for(process.communicate(text.encode()), TIME_OUT)
        except asyncio.TimeoutError:
            raise LipsyncError(f"{self.name} took longer than {TIME_OUT:.0f} s: try a shorter text.") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
