"""The command line: files, exit status and sentences, against a fake server."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from client_fake import WAIT_S, FakeServer, running
from PIL import Image
from test_client_audio import write

FRAMES = 38  # of 1.5 s


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A fake whose frames are true JPEG files."""
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 40, 40)).save(jpeg, "JPEG")
    monkeypatch.setattr(FakeServer, "picture_of", staticmethod(lambda part: jpeg.getvalue()))
    with running(FakeServer()) as server:
        yield server


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return write(tmp_path / "speech.wav", "pcm_s16le", 44100, 2)


def start(*arguments: str | Path, server: str, cache: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "LIPSYNC_SERVER": server,
        "XDG_CACHE_HOME": str(cache),
        "COLUMNS": "120",
    }
    environment.pop("LIPSYNC_CONTROL_KEY", None)
    command = [sys.executable, "-m", "lipsync_client.cli.main", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cache
    )


def run(*arguments: str | Path, server: str, cache: Path) -> tuple[int, str, str]:
    process = start(*arguments, server=server, cache=cache)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def test_render_writes_the_video_and_tells_the_times(fake: FakeServer, speech: Path, tmp_path: Path) -> None:
    output = tmp_path / "talk.mp4"
    code, stdout, stderr = run("render", speech, "-o", output, "--chunk", "8", server=fake.url, cache=tmp_path)
    assert code == 0, stderr
    with av.open(str(output)) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
        assert container.streams.audio[0].channels == 2
    for part in (f"{FRAMES}", "1.52 s", "frames/s", "x real time", "server: composite", "p50 3.0 ms, p95 3.0 ms"):
        assert part in stdout
    assert f"{FRAMES}/{FRAMES}" in stderr
    assert "Traceback" not in stderr


def test_frames_writes_numbered_pictures_to_a_new_folder(fake: FakeServer, speech: Path, tmp_path: Path) -> None:
    output = tmp_path / "pictures"
    code, _, stderr = run("frames", speech, "-o", output, "--chunk", "8", server=fake.url, cache=tmp_path)
    assert code == 0, stderr
    assert sorted(path.name for path in output.iterdir()) == [f"frame_{k:06d}.jpg" for k in range(FRAMES)]
    code, _, stderr = run("frames", speech, "-o", output, "--chunk", "8", server=fake.url, cache=tmp_path)
    assert (code, "not an empty folder" in stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["render", "missing.wav", "-o", "talk.mp4", "--chunk", "8"], "there is no file missing.wav"),
        (["render", "missing.wav", "-o", "SPEECH", "--chunk", "8"], "there is no file missing.wav"),
        (["render", "SPEECH", "-o", "nowhere/talk.mp4", "--chunk", "8"], "no folder nowhere"),
        (["render", "SPEECH", "-o", "SPEECH", "--chunk", "8"], "is the speech itself"),
        (["render", "SPEECH", "-o", "talk.mp4", "--chunk", "99"], "chunk is 99; this server takes 1 to 8"),
        (["avatars", "stats", "nobody"], "failed"),
    ],
)
def test_failures_are_one_sentence(
    fake: FakeServer, speech: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    code, stdout, stderr = run(
        *[str(speech) if a == "SPEECH" else a for a in arguments], server=fake.url, cache=tmp_path
    )
    assert (code, stdout) == (1, "")
    assert says in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speech.wav"]


@pytest.mark.parametrize("arguments", [["status"], ["avatars", "list"], ["render", "SPEECH", "-o", "talk.mp4"]])
def test_no_server_says_how_to_start_one(speech: Path, tmp_path: Path, arguments: list[str]) -> None:
    with running(FakeServer()) as gone:
        url = gone.url
    code, _, stderr = run(*[str(speech) if a == "SPEECH" else a for a in arguments], server=url, cache=tmp_path)
    assert code == 1
    assert f"No lip-sync server answers at {url}. Start one with `lipsync serve`" in stderr
    assert len(stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments", [["render"], ["render", "a.wav"], ["sing"], ["render", "a.wav", "--chunk", "x"]])
def test_wrong_usage_is_status_2(tmp_path: Path, arguments: list[str]) -> None:
    assert run(*arguments, server="127.0.0.1:1", cache=tmp_path)[0] == 2


@pytest.mark.parametrize("command", [[], ["render"], ["frames"], ["status"], ["avatars"], ["avatars", "load"]])
def test_help_teaches(tmp_path: Path, command: list[str]) -> None:
    code, stdout, _ = run(*command, "--help", server="127.0.0.1:1", cache=tmp_path)
    assert code == 0
    assert "Usage" in stdout


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_render_leaves_no_file(
    fake: FakeServer, speech: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    reached = threading.Event()

    def hang(number: int, seen, context) -> None:
        if seen.first > 8:
            reached.set()
            seen.cancelled.wait(WAIT_S)

    fake.on_request = hang
    process = start("render", speech, "-o", "talk.mp4", "--chunk", "8", server=fake.url, cache=tmp_path)
    try:
        assert reached.wait(WAIT_S)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert process.returncode == status
    assert "Traceback" not in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speech.wav"]
    assert all(seen.cancelled.wait(WAIT_S) for seen in fake.seen if seen.first > 8)
