"""The messages of the WebSocket, version 1; docs/web.md describes them. Pure functions."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipsync_client.live.frame import LiveFrame

__all__ = [
    "RATES",
    "VERSION",
    "Close",
    "Hello",
    "Refused",
    "number_of",
    "pack_frame",
    "parse_control",
    "parse_hello",
    "parse_sound",
    "text_of",
]

VERSION = 1
RATES = (3_000, 768_000)  # samples a second that are taken and given: all that browsers have
FRAME, SOUND = 1, 2  # first byte of a binary message
SPEAKING, LAST = 1, 2  # flags of a frame
FRAME_HEADER = struct.Struct("<BBxxIIiI")  # kind, flags, index, speech, speech frame, bytes of sound
SOUND_HEADER = struct.Struct("<BxxxI")  # kind, rate


class Close:
    """Codes that a connection is ended with, besides the standard's own."""

    TRY_LATER = 1013
    BAD_MESSAGE = 4400
    TOKEN = 4401
    IDLE = 4408
    TOO_MUCH = 4429


class Refused(Exception):
    """A message that cannot be taken. `code` ends the connection; None: it is reported, and the connection goes on."""

    def __init__(self, reason: str, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.code = code


@dataclass(frozen=True)
class Hello:
    """The first message. `avatar` is None for the server's choice; `sound_rate` is that of the frames' sound."""

    token: str
    avatar: str | None
    sound_rate: int


def pack_frame(frame: LiveFrame) -> bytes:
    """A frame as a binary message."""
    sound = b""
    if frame.audio_span is not None:
        sound = np.clip(np.rint(frame.audio * 32768.0), -32768, 32767).astype("<i2").tobytes()
    header = FRAME_HEADER.pack(
        FRAME,
        (SPEAKING if frame.state == "speaking" else 0) | (LAST if frame.last else 0),
        frame.index % 2**32,
        frame.speech_id or 0,
        -1 if frame.speech_frame is None else frame.speech_frame,
        len(sound),
    )
    return header + sound + frame.jpeg


def parse_sound(message: bytes) -> tuple[int, bytes]:
    """A binary message of sound: samples a second, and 16-bit little-endian mono samples. Raises Refused."""
    if len(message) < SOUND_HEADER.size:
        raise _bad(f"A binary message has {len(message)} bytes; sound has a header of {SOUND_HEADER.size}.")
    kind, rate = SOUND_HEADER.unpack_from(message)
    if kind != SOUND:
        raise _bad(f"A binary message is of kind {kind}; only sound (kind {SOUND}) is taken.")
    _rate("The sound's rate", rate)
    sound = message[SOUND_HEADER.size :]
    if len(sound) % 2:
        raise _bad(f"The sound has {len(sound)} bytes; 16-bit samples have two each.")
    return rate, sound


def parse_hello(message: str | bytes) -> Hello:
    """The first message. Raises Refused."""
    values = parse_control(message) if isinstance(message, str) else {"type": "sound"}
    if values["type"] != "hello":
        raise _bad(f"The first message is {values['type'][:40]!r}; it must be 'hello'.")
    if values.get("version") != VERSION:
        raise _bad(f"This server speaks version {VERSION} of the protocol, not {values.get('version')!r}: reload.")
    rate = _rate("sound_rate", values.get("sound_rate", 16_000))
    if rate % 25:
        raise _bad(f"sound_rate is {rate}; it must be a multiple of 25, the frames a second.")
    return Hello(text_of(values, "token", ""), text_of(values, "avatar", "") or None, rate)


def parse_control(message: str) -> Mapping[str, Any]:
    """A text message: a JSON object whose `type` is a string. Raises Refused."""
    try:
        values = json.loads(message)
    except (ValueError, RecursionError):
        raise _bad("A text message is not valid JSON.") from None
    if not isinstance(values, dict) or not isinstance(values.get("type"), str):
        raise _bad("A text message must be a JSON object with a `type`.")
    return values


def text_of(values: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """A string of a message. Raises Refused."""
    value = values.get(key, default)
    if not isinstance(value, str):
        raise _bad(f"{key} of {values['type']!r} must be a string.")
    return value


def number_of(values: Mapping[str, Any], key: str) -> int:
    """A whole number of a message. Raises Refused."""
    value = values.get(key)
    if type(value) is not int:
        raise _bad(f"{key} of {values['type']!r} must be a whole number.")
    return value


def _rate(name: str, rate: Any) -> int:
    if type(rate) is not int or not RATES[0] <= rate <= RATES[1]:
        raise _bad(f"{name} is {rate!r}; it must be a whole number from {RATES[0]} to {RATES[1]} samples a second.")
    return rate


def _bad(text: str) -> Refused:
    return Refused("bad_message", text, Close.BAD_MESSAGE)
