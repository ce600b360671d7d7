"""`lipsync avatars add` and `remove` beside a running server."""

from __future__ import annotations

import shutil
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cli import SECONDS, Shell
from test_client import SPEECH

from lipsync_client import Client, Control
from lipsync_server.repository.package import package_avatar
from lipsync_server.repository.source import AvatarSource
from small_avatar import write_small_source

ID = "cli-anna"


@pytest.fixture
def lipsync(server, repository, tmp_path: Path) -> Shell:
    shell = Shell(tmp_path, server.grpc_url, server.control_key)
    shell.environment["LIPSYNC_REPOSITORY"] = str(repository)
    return shell


@pytest.fixture(scope="module")
def file(repository, tmp_path_factory) -> Path:
    """The avatar, packed."""
    folder = tmp_path_factory.mktemp("packed")
    source = write_small_source(folder / "source", ID, jpeg_quality=80)
    package_avatar(AvatarSource.read(source), repository, to=folder / "avatar.zip")
    return folder / "avatar.zip"


def broken(file: Path, to: Path) -> Path:
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(to, "w") as target:
        for name in source.namelist():
            junk = name.startswith(f"{ID}_lipsync/") and name.endswith("model.onnx")
            target.writestr(name, b"junk" if junk else source.read(name))
    return to


def with_encoder(file: Path, repository: Path, to: Path) -> Path:
    """The avatar with an encoder of its own, though it is the shared one."""
    shared = repository / "audio_encoder"
    shutil.copy2(file, to)
    with zipfile.ZipFile(to, "a") as target:
        config = (shared / "config.pbtxt").read_text().replace('"audio_encoder"', f'"{ID}_audio_encoder"')
        target.writestr(f"{ID}_audio_encoder/config.pbtxt", config)
        target.write(shared / "1" / "model.onnx", f"{ID}_audio_encoder/1/model.onnx")
    return to


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_avatar_is_added_replaced_and_removed_while_the_server_runs(
    server, repository, lipsync, file, tmp_path
) -> None:
    def frames() -> list[bytes]:
        with Client(server.grpc_url) as client:
            return [frame.jpeg for frame in client.render(SPEECH[:6400], avatar=ID)]

    try:
        source = write_small_source(tmp_path / "source", ID, jpeg_quality=60)
        code, stdout, stderr = lipsync("avatars", "add", source)
        assert (code, stdout, stderr.splitlines()[-1:]) == (0, "", [f"Added {ID}, and loaded it"]), stderr
        old = frames()

        code, _, stderr = lipsync("avatars", "add", broken(file, tmp_path / "broken.zip"))
        assert (code, "model.onnx" in stderr, len(stderr.strip().splitlines())) == (1, True, 1)
        assert frames() == old
        assert lipsync("avatars", "load", ID)[0] == 0  # the repository has the old one too
        assert frames() == old

        assert lipsync("avatars", "add", file) == (0, "", f"Replaced {ID}\n")
        assert all(one != other for one, other in zip(frames(), old, strict=True))

        assert lipsync("avatars", "remove", ID) == (0, "", f"Removed {ID}\n")
        assert ID not in lipsync("avatars")[1]
        code, _, stderr = lipsync("avatars", "remove", ID)
        assert (code, f"There is no avatar '{ID}'" in stderr) == (1, True)
    finally:
        lipsync("avatars", "remove", ID)
    assert not [path.name for path in repository.iterdir() if path.name.startswith((ID, ".pack"))]


def test_what_fails_or_is_stopped_leaves_nothing_in_memory_nor_on_disk(
    server, repository, lipsync, file, tmp_path
) -> None:
    def states() -> set[str]:
        with Control(server.grpc_url, key=server.control_key) as control:
            return {model.state for model in control.models() if model.name.startswith(ID)}

    def folders() -> list[str]:
        return [path.name for path in repository.iterdir() if path.name.startswith((ID, ".pack"))]

    own = with_encoder(file, repository, tmp_path / "own.zip")
    try:
        code, _, stderr = lipsync("avatars", "add", broken(own, tmp_path / "broken.zip"))
        assert (code, "model.onnx" in stderr) == (1, True), stderr
        until(lambda: not states() & {"READY", "LOADING", "UNLOADING"})  # its encoder was loaded
        assert folders() == []

        adding = lipsync.start("avatars", "add", own)
        until(lambda: "LOADING" in states())
        adding.send_signal(signal.SIGINT)
        assert (adding.communicate(timeout=SECONDS)[1], adding.returncode) == ("Stopped.\n", 130)
        until(lambda: not states() & {"READY", "LOADING", "UNLOADING"})
        assert folders() == []
    finally:
        lipsync("avatars", "remove", ID)


def test_a_repository_that_is_not_the_servers_is_found_out(lipsync, file, tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "composite").mkdir(parents=True)
    (elsewhere / "composite" / "config.pbtxt").write_text("")
    code, _, stderr = lipsync("avatars", "add", file, "--repository", elsewhere)
    assert (code, "does not serve from" in stderr) == (1, True)
    assert [path.name for path in elsewhere.iterdir() if path.is_dir()] == ["composite"]
    lipsync.environment["LIPSYNC_SERVER"] = "127.0.0.1:1"  # nobody there
    code, _, stderr = lipsync("avatars", "add", file, "--repository", elsewhere)
    assert (code, "No server answers" in stderr) == (0, True)
    assert (elsewhere / ID).is_dir()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("demo", "came with the server"),
        ("../demo", "There is no avatar"),
        ("composite", "a part of the server"),
        ("lipsync", "a part of the server"),
    ],
)
def test_what_is_not_an_added_avatar_is_not_removed(lipsync, bad: str, says: str) -> None:
    code, _, stderr = lipsync("avatars", "remove", bad)
    assert (code, says in stderr) == (1, True)
