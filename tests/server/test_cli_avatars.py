"""`lipsync avatars add` and `remove` beside a running server."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from test_cli import Shell
from test_client import SPEECH
from avatar_source import AvatarSource
from lipsync_client import Client
from package_avatar import package_avatar
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
            target.writestr(name, b"junk" if name.endswith("model.onnx") else source.read(name))
    return to


def test_an_avatar_is_added_replaced_and_removed_while_the_server_runs(
    server, repository, lipsync, file, tmp_path
) -> None:
    def frames() -> list[bytes]:
        with Client(server.grpc_url) as client:
            return [frame.jpeg for frame in client.render(SPEECH[:6400], avatar=ID)]

    try:
        source = write_small_source(tmp_path / "source", ID, jpeg_quality=60)
        code, stdout, stderr = lipsync("avatars", "add", source)
        assert (code, stdout.splitlines()[-1:]) == (0, [f"Added {ID}, and loaded it"]), stderr
        old = frames()

        code, _, stderr = lipsync("avatars", "add", broken(file, tmp_path / "broken.zip"))
        assert (code, "model.onnx" in stderr, len(stderr.strip().splitlines())) == (1, True, 1)
        assert frames() == old
        assert lipsync("avatars", "load", ID)[0] == 0  # the repository has the old one too
        assert frames() == old

        assert lipsync("avatars", "add", file)[:2] == (0, f"Replaced {ID}\n")
        assert all(one != other for one, other in zip(frames(), old, strict=True))

        assert lipsync("avatars", "remove", ID)[:2] == (0, f"Removed {ID}\n")
        assert ID not in lipsync("avatars")[1]
        code, _, stderr = lipsync("avatars", "remove", ID)
        assert (code, f"There is no avatar '{ID}'" in stderr) == (1, True)
    finally:
        lipsync("avatars", "remove", ID)
    assert not [path.name for path in repository.iterdir() if path.name.startswith((ID, ".pack"))]


def test_a_repository_that_is_not_the_servers_is_found_out(lipsync, file, tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "composite").mkdir(parents=True)
    (elsewhere / "composite" / "config.pbtxt").write_text("")
    code, _, stderr = lipsync("avatars", "add", file, "--repository", elsewhere)
    assert (code, "does not serve from" in stderr) == (1, True)
    assert [path.name for path in elsewhere.iterdir() if path.is_dir()] == ["composite"]
    lipsync.environment["LIPSYNC_SERVER"] = "127.0.0.1:1"  # nobody there
    code, stdout, _ = lipsync("avatars", "add", file, "--repository", elsewhere)
    assert (code, "no server answers" in stdout) == (0, True)
    assert (elsewhere / ID).is_dir()


@pytest.mark.parametrize("bad", ["demo", "../demo", "composite", "lipsync"])
def test_what_is_not_an_added_avatar_is_not_removed(lipsync, bad: str) -> None:
    code, _, stderr = lipsync("avatars", "remove", bad)
    assert (code, "cannot be used" in stderr) == (1, True)
