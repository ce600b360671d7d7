"""Where files may be written: through links, but never in place of what is no file."""

from __future__ import annotations

import os
import pty
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from test_client_video import frames

from lipsync_client import LipsyncError, VideoError, write_video
from lipsync_client.avatar_file.archive import pack_file
from lipsync_client.output_file import output_file

SILENCE = np.zeros(4800, np.float32)


def put_video(path: Path, draft: Path) -> None:
    write_video(path, frames(3), fps=25, sound=SILENCE)


def put_packed(path: Path, draft: Path) -> None:
    (draft / "config.pbtxt").write_text("name: 'a'")
    pack_file(draft, path)


@pytest.fixture
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("draft")


WRITERS = [put_video, put_packed]


@contextmanager
def folder(at: Path) -> Iterator[Path]:
    at.mkdir()
    yield at


@contextmanager
def pipe(at: Path) -> Iterator[Path]:
    os.mkfifo(at)
    yield at


@contextmanager
def bound_socket(at: Path) -> Iterator[Path]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(at))
        yield at


@contextmanager
def device(at: Path) -> Iterator[Path]:
    # A terminal: its file system takes no other files, so a faulty writer harms no real device.
    one, other = pty.openpty()
    yield Path(os.ttyname(other))
    os.close(one)
    os.close(other)


@contextmanager
def link_to_device(at: Path) -> Iterator[Path]:
    with device(at) as terminal:
        at.symlink_to(terminal)
        yield at


@contextmanager
def link_to_folder(at: Path) -> Iterator[Path]:
    at.symlink_to(at.parent, target_is_directory=True)
    yield at


@contextmanager
def looping_link(at: Path) -> Iterator[Path]:
    at.symlink_to(at)
    yield at


@contextmanager
def missing_folder(at: Path) -> Iterator[Path]:
    yield at / "talk.mp4"


@contextmanager
def own_output(at: Path) -> Iterator[Path]:
    kept = os.dup(1)
    with at.open("wb") as file:
        os.dup2(file.fileno(), 1)
    try:
        yield at
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("there", "says"),
    [
        (folder, "is a folder"),
        (pipe, "is a pipe"),
        (bound_socket, "is a socket"),
        (device, "is a device"),
        (link_to_device, "is a device"),
        (link_to_folder, "is a folder"),
        (looping_link, "cannot be written"),
        (missing_folder, "no folder"),
        (own_output, "own output"),
    ],
)
def test_what_is_no_file_is_refused_and_stays(
    tmp_path: Path, draft: Path, there: Callable[[Path], Iterator[Path]], says: str, write: Callable[[Path, Path], None]
) -> None:
    with there(tmp_path / "talk.mp4") as path:
        before = os.lstat(path) if os.path.lexists(path) else None
        with pytest.raises(LipsyncError, match=says):
            write(path, draft)
        after = os.lstat(path) if os.path.lexists(path) else None
        assert (before and (before.st_ino, before.st_mode)) == (after and (after.st_ino, after.st_mode))
    assert {entry.name for entry in tmp_path.iterdir()} <= {"talk.mp4"}


def test_the_video_writer_refuses_with_its_own_error(tmp_path: Path, draft: Path) -> None:
    with pytest.raises(VideoError, match="is a folder"):
        put_video(tmp_path, draft)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("links", [1, 2])
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(
    tmp_path: Path, draft: Path, write: Callable[[Path, Path], None], links: int, exists: bool
) -> None:
    (tmp_path / "store").mkdir()
    path = target = tmp_path / "store" / "target.mp4"
    if exists:
        target.write_bytes(b"the old one")
    for number in range(links):
        link = tmp_path / f"link{number}.mp4"
        link.symlink_to(path if number else Path("store", "target.mp4"))
        path = link
    write(path, draft)
    assert path.is_symlink() and stat.S_ISREG(target.lstat().st_mode)
    assert target.stat().st_size > 100
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == ["target.mp4"]


def test_a_plain_name_is_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_file("talk.mp4") == tmp_path.resolve() / "talk.mp4"
