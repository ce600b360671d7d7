"""The messages of the WebSocket, versions 1 and 2; docs/web.md describes them. Pure functions."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipsync_client.live.frame import LiveFrame
from lipsync_composite.segments import scan_of

__all__ = [
    "RATES",
    "VERSIONS",
    "Close",
    "Hello",
    "Refused",
    "number_of",
    "numbers_of",
    "pack_frame",
    "pack_patch",
    "parse_control",
    "parse_hello",
    "parse_sound",
    "text_of",
]

VERSIONS = (1, 2)  # 1: whole frames; 2: the footage once, then patches
RATES = (3_000, 768_000)  # samples a second that are taken and given: all that browsers have
FRAME, SOUND, PATCHED = 1, 2, 3  # first byte of a binary message
SPEAKING, LAST, PATCH, WHOLE, LEFT_OUT, PLAIN = 1, 2, 4, 8, 16, 32  # flags of a frame
FRAME_HEADER = struct.Struct("<BBxxIIiI")  # kind, flags, index, speech, speech frame, bytes of sound
FOOTAGE = struct.Struct("<I")  # index of the footage frame, after the header in version 2
BOX = struct.Struct("<4H")  # x, y, width, height
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
    version: int


def pack_frame(frame: LiveFrame) -> bytes:
    """A frame as a binary message of version 1."""
    header, sound = _head(FRAME, frame, 0)
    return header + sound + frame.jpeg


def pack_patch(frame: LiveFrame, footage_index: int, *, has: bool, leave_out: bool) -> bytes:
    """A frame as a binary message of version 2.

    Args:
        footage_index: which footage frame it shows, or is to be pasted on.
        has: the browser has that footage frame.
        leave_out: send no picture, because they do not get through in time; the sound goes all the same.
    """
    flag, picture = 0, b""
    if frame.patch and has:
        flag, picture = PATCH, BOX.pack(*frame.patch.box) + scan_of(frame.patch.jpeg)
    elif frame.patch or frame.footage_key is None:
        try:
            flag, picture = WHOLE, frame.jpeg if leave_out else frame.whole()
        except ValueError:  # the avatar was replaced between its footage and its mouth
            flag, leave_out = WHOLE, True
    elif not has:
        flag, picture = WHOLE | PLAIN, frame.jpeg
    if flag and leave_out:
        flag, picture = LEFT_OUT, b""
    header, sound = _head(PATCHED, frame, flag)
    return header + FOOTAGE.pack(footage_index) + sound + picture


def _head(kind: int, frame: LiveFrame, flags: int) -> tuple[bytes, bytes]:
    """The header of a frame, and its sound."""
    sound = b""
    if frame.audio_span is not None:
        sound = np.clip(np.rint(frame.audio * 32768.0), -32768, 32767).astype("<i2").tobytes()
    header = FRAME_HEADER.pack(
        kind,
        flags | (SPEAKING if frame.state == "speaking" else 0) | (LAST if frame.last else 0),
        frame.index % 2**32,
        frame.speech_id or 0,
        -1 if frame.speech_frame is None else frame.speech_frame,
        len(sound),
    )
    return header, sound


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
    version = values.get("version")
    if type(version) is not int or version not in VERSIONS:
        spoken = " and ".join(map(str, VERSIONS))
        raise _bad(f"This server speaks versions {spoken} of the protocol, not {version!r}: reload.")
    rate = _rate("sound_rate", values.get("sound_rate", 16_000))
    if rate % 25:
        raise _bad(f"sound_rate is {rate}; it must be a multiple of 25, the frames a second.")
    return Hello(text_of(values, "token", ""), text_of(values, "avatar", "") or None, rate, version)


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


def numbers_of(values: Mapping[str, Any], key: str, stop: int) -> list[int]:
    """A list of whole numbers below `stop`, which may be missing. Raises Refused."""
    found = values.get(key, [])
    if not isinstance(found, list) or not all(type(one) is int and 0 <= one < stop for one in found):
        raise _bad(f"{key} of {values['type']!r} must be a list of whole numbers below {stop}.")
    return found


def _rate(name: str, rate: Any) -> int:
    if type(rate) is not int or not RATES[0] <= rate <= RATES[1]:
        raise _bad(f"{name} is {rate!r}; it must be a whole number from {RATES[0]} to {RATES[1]} samples a second.")
    return rate


def _bad(text: str) -> Refused:
    return Refused("bad_message", text, Close.BAD_MESSAGE)
