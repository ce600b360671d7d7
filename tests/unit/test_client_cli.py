"""The command line: files, exit status and sentences, against a fake server."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
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

pytestmark = pytest.mark.slow  # every test starts processes


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


def start(*arguments: str | Path, server: str, cache: Path, piped: bool = False) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "LIPSYNC_SERVER": server,
        "XDG_CACHE_HOME": str(cache),
        "COLUMNS": "120",
    }
    environment.pop("LIPSYNC_CONTROL_KEY", None)
    command = [sys.executable, "-m", "lipsync_client.cli.main", *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE if piped else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="latin-1" if piped else "utf-8",
        cwd=cache,
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


@pytest.mark.parametrize("shown", ["-", "/dev/stdin"])
def test_speech_may_be_piped_in(fake: FakeServer, speech: Path, tmp_path: Path, shown: str) -> None:
    process = start("render", shown, "-o", "a:b.mkv", "--chunk", "8", server=fake.url, cache=tmp_path, piped=True)
    _, stderr = process.communicate(speech.read_bytes().decode("latin-1"), timeout=60)
    assert process.returncode == 0, stderr
    with av.open(str(tmp_path / "a:b.mkv")) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES


def test_frames_writes_numbered_pictures_to_a_new_folder(fake: FakeServer, speech: Path, tmp_path: Path) -> None:
    output = tmp_path / "pictures"
    code, _, stderr = run("frames", speech, "-o", output, "--chunk", "8", server=fake.url, cache=tmp_path)
    assert code == 0, stderr
    assert sorted(path.name for path in output.iterdir()) == [f"frame_{k:06d}.jpg" for k in range(FRAMES)]
    code, _, stderr = run("frames", speech, "-o", output, "--chunk", "8", server=fake.url, cache=tmp_path)
    assert (code, "not an empty folder" in stderr) == (1, True)


def test_a_speech_is_not_overwritten_by_its_video(fake: FakeServer, speech: Path, tmp_path: Path) -> None:
    film = speech.rename(tmp_path / "speech.mp4")
    before = film.read_bytes()
    code, _, stderr = run("render", film, "-o", film, "--chunk", "8", server=fake.url, cache=tmp_path)
    assert (code, "is the speech itself" in stderr) == (1, True)
    assert film.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["render", "missing.wav", "-o", "talk.mp4", "--chunk", "8"], "there is no file missing.wav"),
        (["render", "SPEECH", "-o", "nowhere/talk.mp4", "--chunk", "8"], "no folder nowhere"),
        (["render", "SPEECH", "-o", "SPEECH", "--chunk", "8"], "speech.wav says no video format"),
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


def test_say_makes_a_marked_video_of_a_text(fake: FakeServer, tmp_path: Path) -> None:
    if not shutil.which("flite"):
        pytest.skip("flite is not installed")
    target = tmp_path / "hello.mp4"
    command = start("say", "-", "-o", target, "--json", "--chunk", "8", server=fake.url, cache=tmp_path, piped=True)
    printed, problems = command.communicate("Good morning.", timeout=WAIT_S)
    assert command.returncode == 0, problems
    with av.open(str(target)) as file:
        count = len(list(file.decode(video=0)))
    assert 15 < count < 75 and json.loads(printed)["frames"] == count
    assert b"compositeWithTrainedAlgorithmicMedia" in target.read_bytes()


def test_say_refuses_a_text_that_no_voice_speaks(fake: FakeServer, tmp_path: Path) -> None:
    target = tmp_path / "hello.mp4"
    command = start("say", "Hi", "-o", target, "--language", "xx", server=fake.url, cache=tmp_path)
    _, problems = command.communicate(timeout=WAIT_S)
    assert command.returncode == 1 and ("speaks xx" in problems or "no voice on this machine" in problems)
    assert not target.exists()


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


@pytest.mark.parametrize("command", [["render", "-h"], ["avatars", "-h"], ["avatars", "list", "-h"], ["perf", "-h"]])
def test_h_is_help_everywhere(tmp_path: Path, command: list[str]) -> None:
    code, stdout, _ = run(*command, server="127.0.0.1:1", cache=tmp_path)
    assert (code, "Usage" in stdout) == (0, True)
    assert "--install-completion" not in stdout  # once, at the top


def test_the_help_begins_with_what_a_newcomer_needs(tmp_path: Path) -> None:
    _, stdout, _ = run("--help", server="127.0.0.1:1", cache=tmp_path)
    named = re.findall(r"^│ ([a-z]\S*) ", stdout.partition("Commands")[2], re.MULTILINE)
    assert named[:5] == ["demo", "serve", "render", "frames", "say"] and "avatars" in named


def test_the_version_is_told(tmp_path: Path) -> None:
    code, stdout, _ = run("--version", server="127.0.0.1:1", cache=tmp_path)
    assert code == 0 and re.fullmatch(r"lipsync \d+\.\d+\.\d+\n", stdout)


def test_json_is_all_that_stands_on_stdout(fake: FakeServer, speech: Path, tmp_path: Path) -> None:
    code, stdout, stderr = run(
        "render", speech, "-o", "talk.mp4", "--chunk", "8", "--json", server=fake.url, cache=tmp_path
    )
    assert code == 0, stderr
    figures = json.loads(stdout)
    assert figures["frames"] == FRAMES and figures["server_ms"]["composite"] == {"p50": 3.0, "p95": 3.0}
    assert "Wrote talk.mp4" in stderr


def test_quiet_keeps_notes_and_progress_back_but_no_failure(fake: FakeServer, speech: Path, tmp_path: Path) -> None:
    code, stdout, stderr = run(
        "--quiet", "render", speech, "-o", "talk.mp4", "--chunk", "8", server=fake.url, cache=tmp_path
    )
    assert (code, stderr) == (0, "") and "frames/s" in stdout
    code, _, stderr = run("-q", "render", "missing.wav", "-o", "talk.mp4", server=fake.url, cache=tmp_path)
    assert code == 1 and "there is no file missing.wav" in stderr


NO_PACKAGES = """
import sys
for name in ("onnx", "onnxruntime", "scipy", "cv2", "torch", "starlette", "uvicorn", "websockets", "pytriton"):
    sys.modules[name] = None  # as if it were not installed
from lipsync_client.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("command", "extra"),
    [(["serve"], "server"), (["demo"], "server"), (["web"], "web"), (["avatars", "train", "work/anna"], "studio")],
)
def test_a_missing_extra_is_named_in_one_line(tmp_path: Path, command: list[str], extra: str) -> None:
    outcome = subprocess.run(
        [sys.executable, "-c", NO_PACKAGES, *command], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert outcome.returncode == 1
    assert re.fullmatch(rf"This needs \w+: pip install 'lipsync-triton\[{extra}\]'\n", outcome.stderr)


def test_without_extras_the_help_names_every_command(tmp_path: Path) -> None:
    command = [sys.executable, "-c", NO_PACKAGES, "--help"]
    outcome = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    for name in ("demo", "serve", "render", "web", "avatars", "bench"):
        assert f"│ {name} " in outcome.stdout
