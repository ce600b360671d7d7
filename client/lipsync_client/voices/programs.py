"""Speech synthesisers that are programs of this machine: flite, espeak-ng, Piper."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import tempfile
import unicodedata
import wave
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from lipsync_client.errors import LipsyncError
from lipsync_client.voices.voice import Sound, Voice

__all__ = ["EspeakNg", "Flite", "Piper", "installed"]

TIME_OUT = 20.0  # seconds for one text
LIST_S = 10.0  # seconds that a program may take to list its voices
CHINESE = {"zh": "cmn"}  # espeak-ng's name of it


class Flite:
    """flite, which speaks English."""

    name = "flite"
    languages = frozenset({"en"})

    def __init__(self, path: str) -> None:
        self._path = path

    async def speak(self, text: str, language: str) -> AsyncGenerator[Sound, None]:
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()  # all that it knows
        if not any(sign.isalnum() for sign in text):
            raise LipsyncError("There is nothing in that text that flite can speak.")
        yield await _run(self.name, (self._path, "-voice", "slt", "-f", "-", "-o"), text)


class EspeakNg:
    """espeak-ng, which speaks some hundred languages.

    Args:
        path: of the program, which is asked for them.
    """

    name = "espeak-ng"

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            listed = subprocess.run([path, "--voices"], capture_output=True, text=True, timeout=LIST_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            lines = []
        else:
            lines = listed.stdout.splitlines()[1:]
        self._tags = {line.split()[1] for line in lines if len(line.split()) > 1}
        tags = {tag.lower() for tag in self._tags} | {tag.partition("-")[0] for tag in self._tags}
        self.languages = frozenset(tags | {ours for ours, its in CHINESE.items() if its in tags} or {"en"})

    async def speak(self, text: str, language: str) -> AsyncGenerator[Sound, None]:
        name = CHINESE.get(language, language if language in self.languages else language.partition("-")[0])
        yield await _run(self.name, (self._path, "-v", name, "--stdin", "-w"), text)


class Piper:
    """Piper with one model of a voice.

    Args:
        path: of the program.
        model: an `.onnx` file, with its `.onnx.json` beside it.

    Raises:
        LipsyncError: the files are not those of a voice.
    """

    def __init__(self, path: str, model: Path) -> None:
        self._path, self._model = path, model
        self.name = f"piper:{model.stem}"
        try:
            facts = json.loads(model.with_name(f"{model.name}.json").read_text(encoding="utf-8"))
            code = str(facts.get("language", {}).get("code") or facts["espeak"]["voice"]).lower().replace("_", "-")
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise LipsyncError(f"{model} is no voice of Piper: {model.name}.json does not describe it.") from error
        self.languages = frozenset({code, code.partition("-")[0]})

    async def speak(self, text: str, language: str) -> AsyncGenerator[Sound, None]:
        yield await _run("piper", (self._path, "-m", str(self._model), "-f"), text)


def installed(piper_voices: Path | None = None) -> list[Voice]:
    """The voices of the programs on PATH, the best one first.

    Args:
        piper_voices: a folder with voices of Piper.

    Raises:
        LipsyncError: it holds none, or there is no Piper.
    """
    voices: list[Voice] = []
    if piper_voices is not None:
        piper, models = shutil.which("piper"), sorted(piper_voices.glob("*.onnx"))
        if piper is None or not models:
            lack = "the program piper is not installed" if piper is None else "no .onnx file is there"
            raise LipsyncError(f"The voices of {piper_voices} cannot be used: {lack}.")
        voices += [Piper(piper, model) for model in models]
    if path := shutil.which("flite"):
        voices.append(Flite(path))
    if path := shutil.which("espeak-ng"):
        voices.append(EspeakNg(path))
    return voices


async def _run(name: str, command: Sequence[str], text: str) -> Sound:
    """Let a program write a WAV file, whose name follows its command. Raises LipsyncError.

    The text comes by standard input: nothing of it is an argument, and no shell is involved.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "speech.wav"
        process = await asyncio.create_subprocess_exec(
            *command,
            target,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await asyncio.wait_for(process.communicate(f"{text}\n".encode()), TIME_OUT)
        except asyncio.TimeoutError:
            raise LipsyncError(f"{name} took longer than {TIME_OUT:.0f} s: try a shorter text.") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        try:
            with wave.open(str(target)) as speech:
                sound, rate, shape = speech.readframes(-1), speech.getframerate(), speech.getparams()[:2]
        except (OSError, EOFError, wave.Error):
            raise LipsyncError(f"{name} could not speak that text.") from None
    if shape != (1, 2):
        raise LipsyncError(f"{name} gave sound of {shape} channels and bytes a sample, not (1, 2).")
    if not sound:
        raise LipsyncError(f"There is nothing in that text that {name} can speak.")
    return Sound(sound, rate)
