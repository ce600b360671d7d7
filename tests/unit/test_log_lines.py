"""What is kept of a program that prints too much."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_gateway_tokens import Clock

from lipsync_server.rotating_file import RotatingFile
from lipsync_server.serving.log_lines import SAID_EVERY_S, LogLines
from lipsync_server.serving.server import TritonServer
from lipsync_server.serving.server_settings import ServerConfig


def triton(text: str, number: int = 0) -> str:
    """A line as Triton prints it."""
    return f"E1201 01:11:28.{number:06d} {23000 + number} scheduler.cc:1468] {text}\n"


def test_the_same_line_is_kept_once_and_counted() -> None:
    kept: list[str] = []
    lines = LogLines(kept.append, now=Clock())
    for number in range(10_000):
        lines.add(triton("again", number))
    lines.add(triton("another"))
    lines.add(triton("another"))
    lines.close()
    assert kept == [
        triton("again"),
        "... the last line, repeated 9999 times\n",
        triton("another"),
        "... the last line, repeated 1 times\n",
    ]


def test_a_line_that_goes_on_repeating_is_counted_now_and_then() -> None:
    kept: list[str] = []
    clock = Clock()
    lines = LogLines(kept.append, now=clock)
    for _ in range(3):
        lines.add("again\n")
        lines.add("again\n")
        clock.time += SAID_EVERY_S
    lines.close()
    assert kept == ["again\n", *["... the last line, repeated 2 times\n"] * 2, "... the last line, repeated 1 times\n"]


def test_lines_beyond_a_number_a_second_are_counted_and_the_next_second_begins_anew() -> None:
    kept: list[str] = []
    clock = Clock()
    lines = LogLines(kept.append, per_second=2, now=clock)
    for number in range(5):
        lines.add(f"a{number}\n")
    clock.time += 1
    for number in range(3):
        lines.add(f"b{number}\n")
    lines.close()
    assert kept == [
        *("a0\n", "a1\n", "... 3 lines left out, beyond 2 a second\n"),
        *("b0\n", "b1\n", "... 1 lines left out, beyond 2 a second\n"),
    ]


def test_all_lines_are_kept_where_nothing_is_limited() -> None:
    kept: list[str] = []
    lines = LogLines(kept.append, per_second=None, now=Clock())
    for number in range(5000):
        lines.add(f"{number}\n")
    assert len(kept) == 5000


def test_the_terminal_and_the_log_have_no_key_and_no_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = TritonServer(tmp_path, ServerConfig(), echo=True, inference_key="inference-secret")
    monkeypatch.setattr(server, "control_key", "control-secret", raising=False)
    monkeypatch.setattr(server, "_with_gpu", True, raising=False)
    server._log = RotatingFile(tmp_path / "server.log", 1000, 0)
    for line in ("Signal (15) received.\n", "key is control-secret, inference-secret\n", "trouble\n"):
        server._lines.add(line)
    assert capsys.readouterr().err == "key is ***, ***\ntrouble\n"
    assert server.last_lines() == "Signal (15) received.\nkey is ***, ***\ntrouble"
    assert (tmp_path / "server.log").read_text() == f"{server.last_lines()}\n"
