"""The examples fail before they begin, with one sentence, when something that they need is missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkout import ROOT

pytestmark = pytest.mark.slow  # every test starts a process

NOBODY = "127.0.0.1:1"
KEYS = {"LIVEKIT_URL": "ws://127.0.0.1:1", "LIVEKIT_API_KEY": "devkey", "LIVEKIT_API_SECRET": "secret"}
SAMPLE = str(ROOT / "samples/speech.wav")
PIPECAT = ["pipecat/to_file.py", SAMPLE, "--server", NOBODY]

# What bot.py needs beyond the extra is not installed for tests everywhere.
BOT = "No lip-sync server answers" if importlib.util.find_spec("fastapi") else "Install what it needs: pip install"


@pytest.mark.parametrize(
    ("command", "environment", "says"),
    [
        (PIPECAT, {}, "No lip-sync server answers"),
        (["pipecat/bot.py"], {"SPEECH": SAMPLE, "OPENAI_API_KEY": ""}, BOT),
        (["livekit/agent.py", "start"], {}, "Set LIVEKIT_URL, LIVEKIT_API_KEY, LIVEKIT_API_SECRET"),
        (["livekit/agent.py", "dev"], {}, "Set LIVEKIT_URL, LIVEKIT_API_KEY, LIVEKIT_API_SECRET"),
        (["livekit/agent.py", "start"], {**KEYS, "LIVEKIT_API_KEY": ""}, "Set LIVEKIT_API_KEY:"),
        (["livekit/agent.py", "start"], {**KEYS, "SPEECH": SAMPLE}, "No lip-sync server answers"),
        (["livekit/agent.py", "start"], {**KEYS, "SPEECH": "missing.wav"}, "there is no file missing.wav"),
    ],
)
def test_an_example_says_what_is_missing(
    tmp_path: Path, command: list[str], environment: dict[str, str], says: str
) -> None:
    if importlib.util.find_spec(command[0].partition("/")[0]) is None:
        pytest.skip("the framework is not installed")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIVEKIT_")}
    outcome = subprocess.run(
        [sys.executable, str(ROOT / "examples" / command[0]), *command[1:]],
        env={**kept, "LIPSYNC_SERVER": NOBODY, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert outcome.returncode == 1
    assert says in outcome.stderr.strip().splitlines()[-1] and "Traceback" not in outcome.stderr
    assert not list(tmp_path.iterdir())
