"""`lipsync say`: turns a text into a video."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import wave
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer

from lipsync_client import wire
from lipsync_client.cli.common import Headers, Json, Server, TokenFile
from lipsync_client.cli.marks import SignCert, SignKey, SignTime, Unmarked
from lipsync_client.cli.render import AvatarName, Chunk, render
from lipsync_client.cli.voices import PiperVoices, VoiceModel, VoiceService, VoiceSpeaker, voices_of
from lipsync_client.errors import LipsyncError
from lipsync_client.media.video import video_file
from lipsync_client.voices.voices import Voices


def say(
    text: Annotated[str, typer.Argument(help="What is said; - reads the standard input.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write: .mp4, .mov, .m4v, .mkv or .webm.")],
    avatar: AvatarName = wire.SHIPPED_AVATAR,
    voice: Annotated[
        str | None,
        typer.Option(help="The voice. [default: the first one for the language]", show_default=False),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="The language, as de or pt-br. [default: what the script tells, or en]", show_default=False),
    ] = None,
    voice_service: VoiceService = None,
    voice_model: VoiceModel = "tts-1",
    voice_speaker: VoiceSpeaker = "alloy",
    piper_voices: PiperVoices = None,
    server: Server = wire.DEFAULT_URL,
    token_file: TokenFile = None,
    headers: Headers = None,
    chunk: Chunk = 25,
    unmarked: Unmarked = False,
    sign_cert: SignCert = None,
    sign_key: SignKey = None,
    sign_time: SignTime = None,
    as_json: Json = False,
) -> None:
    """Make a video of a face that says a text. Needs a synthesiser (espeak-ng, flite, Piper) or a speech service.

    Example: `lipsync say "Good morning." -o hello.mp4`
    """
    video_file(output)  # before anything is spoken
    voices = voices_of(voice_service, voice_model, voice_speaker, piper_voices)
    if voices is None:
        raise LipsyncError("There is no voice on this machine: install espeak-ng or flite, or give --voice-service.")
    words = sys.stdin.read() if text == "-" else text
    with tempfile.TemporaryDirectory() as folder:
        speech = Path(folder) / "speech.wav"
        asyncio.run(_speak(voices, words, voice, language, speech))
        render(
            speech,
            output,
            avatar=avatar,
            server=server,
            token_file=token_file,
            headers=headers,
            chunk=chunk,
            unmarked=unmarked,
            sign_cert=sign_cert,
            sign_key=sign_key,
            sign_time=sign_time,
            as_json=as_json,
        )


async def _speak(voices: Voices, text: str, voice: str | None, language: str | None, target: Path) -> None:
    """Write a text's speech to a WAV file."""
    with wave.open(str(target), "wb") as file:
        async with aclosing(voices.speak(text, voice=voice, language=language)) as sounds:
            async for pcm, rate in sounds:
                if not file.getnframes():
                    file.setparams((1, 2, rate, 0, "NONE", ""))
                file.writeframes(pcm)
