"""The command line against a real server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from test_client import SPEECH, add_avatar, remove_avatar

from gateway_process import gateway
from lipsync_client import Client, read_audio

SECONDS = 120


class Shell:
    """Runs `lipsync` in an empty folder."""

    def __init__(self, folder: Path, url: str, key: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "LIPSYNC_SERVER": url,
            "LIPSYNC_CONTROL_KEY": key,
            "COLUMNS": "150",
        }

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "lipsync_client.cli.main", *map(str, arguments)],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        process = self.start(*arguments)
        try:
            stdout, stderr = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
        assert "Traceback" not in stderr
        return process.returncode, stdout, stderr

    def write_wav(self, name: str, speech: np.ndarray) -> Path:
        path = self.folder / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
            samples = np.round(speech * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def lipsync(server, tmp_path: Path) -> Shell:
    return Shell(tmp_path, server.grpc_url, server.control_key)


def test_render_makes_a_video_of_the_avatar(server, lipsync: Shell) -> None:
    lipsync.write_wav("speech.wav", SPEECH)
    code, stdout, stderr = lipsync("render", "speech.wav", "-o", "talk.mp4", "--chunk", "8")
    assert code == 0, stderr
    assert "x real time" in stdout
    with Client(server.grpc_url) as client, av.open(str(lipsync.folder / "talk.mp4")) as container:
        facts = client.avatar()
        pictures = list(container.decode(video=0))
        assert len(pictures) == 21
        assert (pictures[0].width, pictures[0].height) == (facts.frame_width, facts.frame_height)
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.average_rate == 25
        assert abs(float(audio.duration * audio.time_base) - len(SPEECH) / 16000) < 0.04
    assert lipsync.files() == ["speech.wav", "talk.mp4"]


def test_frames_are_those_of_the_library(server, lipsync: Shell) -> None:
    path = lipsync.write_wav("speech.wav", SPEECH)
    assert lipsync("frames", path, "-o", "pictures")[0] == 0
    written = [file.read_bytes() for file in sorted((lipsync.folder / "pictures").iterdir())]
    with Client(server.grpc_url) as client:
        assert written == [frame.jpeg for frame in client.render(read_audio(path))]


def test_status_shows_models_and_avatars(lipsync: Shell) -> None:
    code, stdout, _ = lipsync("status")
    assert code == 0
    for part in ("ready", "Triton 2.", "mel_preprocess", "lipsync_ensemble", "demo"):
        assert part in stdout


def test_status_without_the_key_says_what_is_missing(lipsync: Shell) -> None:
    lipsync.environment |= {"LIPSYNC_CONTROL_KEY": "", "XDG_CACHE_HOME": str(lipsync.folder)}
    code, stdout, stderr = lipsync("status")
    assert code == 0
    assert "ready" in stdout
    assert "LIPSYNC_CONTROL_KEY" in stderr
    code, _, stderr = lipsync("avatars", "list")
    assert (code, "LIPSYNC_CONTROL_KEY" in stderr) == (1, True)


def test_avatars_are_loaded_measured_and_unloaded(server, lipsync: Shell) -> None:
    add_avatar(server.repository, "yve")
    try:
        assert _line(lipsync("avatars")[1], "yve").split() == ["yve", "not", "loaded"]
        assert lipsync("avatars", "load", "yve") == (0, "", "Loaded yve\n")
        shown = _line(lipsync("avatars", "list")[1], "yve").split()
        assert shown[1:3] == ["loaded", "CPU"] and int(shown[3]) > 50 and shown[4:6] == ["0", "0"]
        lipsync.write_wav("speech.wav", SPEECH)
        assert lipsync("render", "speech.wav", "-o", "talk.mp4", "--avatar", "yve")[0] == 0
        code, stdout, _ = lipsync("avatars", "stats", "yve")
        assert code == 0
        assert _line(stdout, "requests").split() == ["requests", "2"]
        assert lipsync("avatars", "unload", "yve") == (0, "", "Unloaded yve\n")
        assert _line(lipsync("avatars")[1], "yve").split() == ["yve", "unloaded"]
        code, _, stderr = lipsync("render", "speech.wav", "-o", "none.mp4", "--avatar", "yve")
        assert (code, "`lipsync avatars load` loads one" in stderr) == (1, True), "a Triton loads nothing on demand"
        files = ("again.mp4", "and_again.mp4")  # a gateway does, for both at once
        (lipsync.folder / "gateway").mkdir()
        with gateway(lipsync.folder / "gateway", server.grpc_url, key=server.control_key) as front:
            front.wait()
            options = ("--avatar", "yve", "--server", front.grpc)
            for process in [lipsync.start("render", "speech.wav", "-o", file, *options) for file in files]:
                _, stderr = process.communicate(timeout=SECONDS)
                assert process.returncode == 0, stderr
        shutil.rmtree(lipsync.folder / "gateway")
        assert lipsync.files() == ["again.mp4", "and_again.mp4", "speech.wav", "talk.mp4"]
    finally:
        lipsync("avatars", "unload", "yve")
        remove_avatar(server.repository, "yve")


@pytest.mark.parametrize("arguments", [("load", "nobody"), ("unload", "nobody"), ("stats", "nobody")])
def test_unknown_avatars_are_one_sentence(lipsync: Shell, arguments: tuple[str, str]) -> None:
    code, stdout, stderr = lipsync("avatars", *arguments)
    assert (code, stdout) == (1, "")
    assert "'nobody'" in stderr
    assert len(stderr.strip().splitlines()) == 1


def test_ctrl_c_leaves_no_file_and_a_working_server(server, lipsync: Shell) -> None:
    lipsync.write_wav("long.wav", np.tile(SPEECH, 200))
    process = lipsync.start("render", "long.wav", "-o", "talk.mp4")
    try:
        _wait_for_part(lipsync, process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert (process.returncode, "Traceback" in stderr) == (130, False)
    assert lipsync.files() == ["long.wav"]
    assert lipsync("status")[0] == 0


def _wait_for_part(lipsync: Shell, process: subprocess.Popen[str]) -> None:
    """Until the video is being written."""
    for _ in range(SECONDS * 10):
        if any(name.endswith(".part") for name in lipsync.files()):
            return
        assert process.poll() is None, process.communicate()
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("no video was begun")


def _line(table: str, first: str) -> str:
    """The line of a printed table that begins with a word."""
    return next(line for line in table.splitlines() if line.split()[:1] == [first])
