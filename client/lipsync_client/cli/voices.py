"""Options of the commands that speak text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.voices.voices import Voices

VoiceService = Annotated[
    str | None,
    typer.Option(
        "--voice-service",
        envvar="LIPSYNC_VOICE_SERVICE",
        help="Address of a speech service with OpenAI's interface, up to /v1; its key is in LIPSYNC_VOICE_KEY.",
        show_default=False,
    ),
]
VoiceModel = Annotated[
    str, typer.Option("--voice-model", envvar="LIPSYNC_VOICE_MODEL", help="Model of the speech service.")
]
VoiceSpeaker = Annotated[
    str, typer.Option("--voice-speaker", envvar="LIPSYNC_VOICE_SPEAKER", help="Voice of the speech service.")
]
PiperVoices = Annotated[
    Path | None,
    typer.Option(
        "--piper-voices",
        envvar="LIPSYNC_PIPER_VOICES",
        help="A folder with voices of Piper (.onnx and .onnx.json).",
        show_default=False,
    ),
]


def voices_of(service: str | None, model: str, speaker: str, piper: Path | None) -> Voices | None:
    """The service, if one is named, and what is installed; None if there is nothing. Raises LipsyncError."""
    from lipsync_client.voices.programs import installed
    from lipsync_client.voices.speech_api import SpeechApi

    found = installed(piper)
    if service:
        found.insert(0, SpeechApi(service, os.environ.get("LIPSYNC_VOICE_KEY") or None, model=model, voice=speaker))
    return Voices(found) if found else None
