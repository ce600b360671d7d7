"""Rates of browsers' devices in the WebSocket's messages."""

from __future__ import annotations

import json
import re
import struct

import pytest

from checkout import ROOT
from lipsync_client.web.protocol import Refused, parse_hello, parse_sound

DEVICES = [3_000, 8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000, 384_000, 768_000]
LIMIT = 256 << 10  # bytes of a message, as `lipsync web` sets it


@pytest.mark.parametrize("rate", DEVICES)
def test_every_rate_that_browsers_have_is_taken(rate: int) -> None:
    assert parse_sound(struct.pack("<BxxxI", 2, rate) + b"\1\0") == (rate, b"\1\0")
    assert parse_hello(json.dumps({"type": "hello", "version": 1, "sound_rate": rate})).sound_rate == rate


@pytest.mark.parametrize("rate", [0, 2_999, 768_001, 2**32 - 1])
def test_other_rates_are_refused(rate: int) -> None:
    with pytest.raises(Refused, match="3000 to 768000"):
        parse_sound(struct.pack("<BxxxI", 2, rate))


def test_the_pages_pieces_fit_a_message_at_every_rate() -> None:
    page = (ROOT / "client/js/sources.js").read_text()
    seconds = float(re.findall(r"PIECE_S = ([\d.]+)", page)[0])
    assert 8 + 2 * max(DEVICES) * max(seconds, 1 / 25) <= LIMIT
    assert f"ws_max_size={LIMIT >> 10} << 10" in (ROOT / "client/lipsync_client/cli/web.py").read_text()
