"""The command line for users without a home, and in locales that lack characters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # every test starts processes

LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "shift_jis"},
]
HOMELESS = """
import pwd, sys
def nobody(number):
    raise KeyError(number)
pwd.getpwuid = nobody  # as for a container's user who has no line in /etc/passwd
from lipsync_client.cli.main import main
main()
"""
SHOWN = r"""
from lipsync_client.cli import common, main
def print_names():
    common.show({"name": "\u00fc \u8a71 \udcff"}, %s, "\u00fc \u8a71 \udcff")
main.app = print_names
main.main()
"""


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    return subprocess.run(
        [sys.executable, *command], env={**kept, **environment}, cwd=cwd, capture_output=True, timeout=60
    )


@pytest.mark.parametrize("locale", LOCALES, ids=str)
@pytest.mark.parametrize("command", [["--help"], ["bench", "--help"], ["render"]], ids=str)
def test_every_locale_shows_the_help(tmp_path: Path, locale: dict[str, str], command: list[str]) -> None:
    outcome = run("-m", "lipsync_client.cli.main", *command, cwd=tmp_path, HOME=str(tmp_path), **locale)
    assert outcome.returncode == (0 if "--help" in command else 2)
    assert b"Usage" in outcome.stdout + outcome.stderr and b"Error" not in outcome.stderr.replace(b" Error ", b"")


@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_every_locale_prints_every_name(tmp_path: Path, locale: dict[str, str]) -> None:
    for as_json in (True, False):
        outcome = run("-c", SHOWN % as_json, cwd=tmp_path, HOME=str(tmp_path), **locale)
        assert outcome.returncode == 0, outcome.stderr
        if as_json:
            assert json.loads(outcome.stdout) == {"name": "\u00fc \u8a71 \udcff"}


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["--help"], 0),
        (["status", "--server", "127.0.0.1:1"], 1),
        (["avatars", "--server", "127.0.0.1:1"], 1),
        (["render", "missing.wav", "-o", "talk.mp4"], 1),
        (["avatars", "remove", "nobody", "--server", "127.0.0.1:1"], 1),
        (["--install-completion"], 1),
    ],
    ids=str,
)
def test_a_user_without_a_home_gets_no_traceback(tmp_path: Path, command: list[str], status: int) -> None:
    outcome = run("-c", HOMELESS, *command, cwd=tmp_path, TMPDIR=str(tmp_path))
    assert outcome.returncode == status, outcome.stderr
    assert b"Traceback" not in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == status
