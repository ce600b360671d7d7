"""Speech services over HTTP with the interface of OpenAI: POST `<address>/audio/speech`."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import struct
from collections.abc import AsyncGenerator
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from lipsync_client.errors import LipsyncError
from lipsync_client.voices.voice import Sound

__all__ = ["SpeechApi"]

TIME_OUT = 20.0  # seconds without a byte
PIECE = 9_600  # bytes: 0.2 s at 24 kHz
PCM_RATE = 24_000  # samples a second of the format `pcm`
LONGEST = 64 << 20  # bytes of one text's speech
AWAY = "The speech service does not answer now: try again in a moment."


class _NoRedirect(HTTPRedirectHandler):
    """The key must not follow to another address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class SpeechApi:
    """A speech service. It speaks any language.

    Args:
        url: up to `/v1`, as `https://api.openai.com/v1`.
        key: sent as a bearer token; None: none is sent.
        model, voice: as the service names them.

    Raises:
        LipsyncError: the address is none, or would carry the key unencrypted to another machine.
    """

    name = "service"
    languages = None

    def __init__(self, url: str, key: str | None = None, *, model: str = "tts-1", voice: str = "alloy") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LipsyncError(f"{url!r} is no address of a speech service: give one such as https://host/v1.")
        if key and parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise LipsyncError("The key of the speech service would travel unencrypted: give an https address.")
        self._url = url.rstrip("/") + "/audio/speech"
        self._headers = {"Content-Type": "application/json", "User-Agent": "lipsync"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._options = {"model": model, "voice": voice, "response_format": "pcm"}
        self._open = build_opener(_NoRedirect).open

    async def speak(self, text: str, language: str) -> AsyncGenerator[Sound, None]:
        body = json.dumps({**self._options, "input": text}).encode()
        request = Request(self._url, body, self._headers, method="POST")  # noqa: S310 (the scheme was checked)
        try:
            answer: HTTPResponse = await asyncio.to_thread(self._open, request, timeout=TIME_OUT)
        except HTTPError as error:
            error.close()
            raise LipsyncError(_meaning(error.code)) from None
        except (OSError, HTTPException):
            raise LipsyncError(AWAY) from None
        given = 0
        try:
            rate, rest = await asyncio.to_thread(_begin, answer)
            while True:
                more = await asyncio.to_thread(answer.read1, PIECE)
                rest += more
                whole = len(rest) - len(rest) % 2
                if whole and (whole >= PIECE or not more or not given):
                    yield Sound(rest[:whole], rate)
                    given, rest = given + whole, rest[whole:]
                if not more:
                    break
                if given > LONGEST:
                    raise LipsyncError("The speech service gave more sound than a text can have.")
        except (OSError, HTTPException, ValueError):
            raise LipsyncError(AWAY) from None
        finally:
            answer.close()
        if not given:
            raise LipsyncError("The speech service gave no sound for that text.")


def _begin(answer: HTTPResponse) -> tuple[int, bytes]:
    """Samples a second, and the first of them: of services that give a WAV file all the same, from its header.

    Raises LipsyncError.
    """
    head = answer.read(4)
    if head != b"RIFF":
        kind = answer.headers.get("Content-Type", "").lower()
        if kind.startswith("text/") or kind.startswith("application/json"):
            raise LipsyncError("The speech service answered with a text instead of sound.")
        return PCM_RATE, head
    answer.read(8)
    rate = 0
    while len(chunk := answer.read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            return rate or PCM_RATE, b""
        content = answer.read(size + size % 2)
        if name == b"fmt ":
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", content.ljust(16, b"\0"))
            if (channels, bits) != (1, 16):
                break
    raise LipsyncError("The speech service gave sound in another format than 16-bit mono.")


def _meaning(status: int) -> str:
    """What a refusal means for the person who wrote the text."""
    if status in (401, 403):
        return "The speech service refuses this site: its key is missing, wrong or used up."
    if status == 429:
        return "The speech service has too much to do: try again in a moment."
    if 400 <= status < 500:
        return f"The speech service does not take that text (status {status})."
    return AWAY


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
