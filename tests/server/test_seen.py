"""What a running `lipsync serve` tells of itself: its logs without secrets, its status, its traces' headers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import eventually
from lipsync_client import AccessDenied, Client, Control, ControlDenied, LiveSession, Overloaded
from lipsync_server.gateway.tokens import new_token
from lipsync_server.serving.stages import StageWatch
from speech import real_speech

SECONDS = 120.0  # no wait may last longer
LINE = re.compile(r"Serving .* at grpc (\S+), http http://(\S+), monolithic (\S+), metrics http://\S+ \(.*\)\n")
KEY = "control-key-that-nobody-may-read"
WRONG = "lipsync_wrong-token-that-nobody-may-read"


@dataclass
class Serving:
    """A running `lipsync serve`."""

    grpc: str
    process: subprocess.Popen[str]
    folder: Path
    token: str

    def status(self) -> dict[str, Any]:
        with Control(self.grpc, timeout=SECONDS) as control:
            status = control.gateway()
        assert status is not None
        return status

    def logs(self) -> dict[str, str]:
        """All that it has written, by name."""
        paths = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix in (".log", ".json", ".txt")]
        return {path.name: path.read_text() for path in paths}


@pytest.fixture(scope="module")
def serving(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("seen")
    token = new_token(folder / "tokens.yaml", "anna", live_sessions=1)
    settings = {
        "ports": {"http": 0, "grpc": 0, "metrics": 0, "monolithic": 0},
        "log": "verbose",
        "gateway": {"probe_interval_s": 0.5, "tokens": str(folder / "tokens.yaml")},
    }
    (folder / "server.yaml").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "lipsync_client.cli.main", "serve", "--repository", str(repository)]
    command += ["--config", str(folder / "server.yaml")]
    variables = {**os.environ, "LIPSYNC_CONTROL_KEY": KEY, "XDG_CACHE_HOME": str(folder / "cache")}
    with (folder / "terminal.txt").open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables)
    try:
        assert process.stdout is not None
        found = LINE.fullmatch(process.stdout.readline())
        assert found, (folder / "terminal.txt").read_text()[-3000:]
        yield Serving(found[1], process, folder, token)
    finally:
        process.kill()
        process.wait(SECONDS)


def test_the_status_names_the_stages_and_the_avatars(serving: Serving) -> None:
    eventually(lambda: serving.status()["avatars"])  # some seconds after the start
    status = serving.status()
    assert status["ready"] and [one["ready"] for one in status["upstreams"]] == [True]
    assert {"composite", "mel_preprocess", "lipsync"} <= {one["model"] for one in status["supervisor"]["stages"]}
    assert [(one["id"], one["loaded"]) for one in status["avatars"] if one["id"] == "demo"] == [("demo", True)]
    assert status["supervisor"]["gateway"]["pid"] and status["supervisor"]["triton"]["restarts"] == 0


def test_a_second_live_session_of_a_token_waits_for_a_place(serving: Serving) -> None:
    async def main() -> None:
        async with LiveSession(serving.grpc, token=serving.token, timeout=SECONDS) as session:
            await session.push(real_speech()[:8000], 16_000)
            with pytest.raises(Overloaded, match="1 live sessions of this token talk"):
                async with LiveSession(serving.grpc, token=serving.token, patience=0.1):
                    pass

    asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_a_stage_that_ends_is_told_with_its_name(serving: Serving) -> None:
    triton = serving.status()["supervisor"]["triton"]["pid"]
    (stage,) = [pid for pid, model in StageWatch(triton).names().items() if model == "mel_preprocess"]
    os.kill(stage, signal.SIGKILL)
    eventually(lambda: serving.status()["supervisor"]["triton"]["restarts"] == 1)
    eventually(lambda: serving.status()["ready"])
    supervisor = serving.status()["supervisor"]
    assert supervisor["triton"]["last_end"]["reason"] == "Triton's stage mel_preprocess has ended"
    assert supervisor["triton"]["state"] == "running"
    assert [one["ends"] for one in supervisor["stages"] if one["model"] == "mel_preprocess"] == [1]


def test_no_log_holds_a_token_or_the_control_key(serving: Serving) -> None:
    """With Triton's most talkative log, after right and wrong secrets were sent, and when all has ended."""
    with Client(serving.grpc, token=serving.token, timeout=SECONDS) as client:
        assert client.infer(np.zeros(16_000, np.float32), frame_count=2).frames
    with Client(serving.grpc, token=WRONG) as client, pytest.raises(AccessDenied):
        client.infer(np.zeros(16_000, np.float32), frame_count=2)
    with Control(serving.grpc, key=KEY) as control:
        assert control.models()
    with Control(serving.grpc, key=WRONG) as control, pytest.raises(ControlDenied):
        control.models()
    written = lambda: next(text for name, text in serving.logs().items() if name.startswith("requests-"))  # noqa: E731
    eventually(lambda: "PERMISSION_DENIED" in written())  # the log is written in the background
    running = serving.logs()
    serving.process.send_signal(signal.SIGINT)
    assert serving.process.wait(SECONDS) == 0
    logs = {**running, **serving.logs()}
    assert {name.partition("-")[0] for name in logs} >= {"requests", "server", "terminal.txt"}
    for secret in (serving.token, WRONG, KEY):
        assert [name for name, text in logs.items() if secret in text] == []
    lines = written().splitlines()
    assert [line for line in lines if "token=anna" in line and "frames=2 " in line and line.endswith("code=OK")]
    assert [line for line in lines if line.endswith("code=UNAUTHENTICATED")]
    assert "Signal (" not in logs["terminal.txt"] and "Traceback" not in logs["terminal.txt"]
    assert not [name for name in serving.logs() if name.endswith(".json")], "the supervisor's file has gone"
