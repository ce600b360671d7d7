"""Files of any name, and what comes through pipes."""

from __future__ import annotations

import os
import pty
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from test_client_audio import error_against_tone, write
from test_client_video import frames

from checkout import ROOT
from lipsync_client import AudioError, read_audio, write_video
from lipsync_server.repository.source import AvatarSource

NAMES = [  # what FFmpeg would take for a protocol, for options of one, or for a pattern; and other odd names
    "2026-11-27T10:30:00.wav",
    "pipe:1.wav",
    "http:a.wav",
    "http://127.0.0.1:1/a.wav",
    "concat:a|b.wav",
    "data:x.wav",
    "file:a.wav",
    "subfile,,start,0,end,0,,:a.wav",
    "C:a.wav",
    "talk%03d.wav",
    "-a.wav",
    "a?b#c&d.wav",
    "ü – 話.wav",
    "two\nlines.wav",
    os.fsdecode(b"\xff\xfe.wav"),
    "12:30/talk.wav",
]


@pytest.fixture(params=NAMES, ids=ascii)
def name(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A relative path: FFmpeg reads no protocol in an absolute one."""
    monkeypatch.chdir(tmp_path)
    path = Path(request.param)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sound") / "a.wav", "pcm_s16le", 16000, 1)


def test_a_file_of_any_name_is_read(name: Path, wav: Path) -> None:
    name.write_bytes(wav.read_bytes())
    assert np.array_equal(read_audio(name), read_audio(wav))
    assert np.array_equal(read_audio(str(name)), read_audio(wav))


def test_a_video_of_any_name_is_written(name: Path, wav: Path) -> None:
    video = name.with_name(f"{name.name}.mp4")
    name.write_bytes(wav.read_bytes())
    write_video(video, frames(3), fps=25, sound=name)
    assert error_against_tone(read_audio(video)) < 1e-2
    assert {path.name for path in name.parent.iterdir()} == {name.name, video.name}


def test_an_avatars_footage_may_have_any_name(name: Path) -> None:
    write_video(name.with_suffix(".mp4"), frames(3), fps=25, sound=np.zeros(1600, np.float32))
    stated = dict.fromkeys(("id", "name", "licence", "provenance", "boxes", "unet"), "")
    source = AvatarSource(folder=name.parent, footage=name.with_suffix(".mp4").name, **stated)
    assert len(list(source.frames())) == 3


def test_every_file_that_ffmpeg_opens_is_named_for_it() -> None:
    for folder in ("client", "server", "studio", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            for argument in re.findall(r"\bav\.open\(\s*(\S+)", path.read_text()):
                assert argument.startswith(("ffmpeg_name(", 'f"file:', "self._output")), path  # the last: no file


@contextmanager
def fed(content: bytes, end: int) -> Iterator[None]:
    """Write to the other end of a pipe while it is read."""

    def feed() -> None:
        with os.fdopen(end, "wb") as pipe:
            pipe.write(content)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    yield
    thread.join(10)
    assert not thread.is_alive()


@contextmanager
def named_pipe(content: bytes, at: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    os.mkfifo(at)
    thread = threading.Thread(target=at.write_bytes, args=(content,), daemon=True)
    thread.start()
    yield str(at)
    thread.join(10)
    assert not thread.is_alive()


@contextmanager
def process_substitution(content: bytes, at: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    read, write_end = os.pipe()
    with fed(content, write_end):
        yield f"/dev/fd/{read}"
    os.close(read)


@contextmanager
def piped_input(content: bytes, at: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    read, write_end = os.pipe()
    with fed(content, write_end), os.fdopen(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield "-"


@contextmanager
def socket_input(content: bytes, at: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    near, far = socket.socketpair()  # as a shell over the network, or Node.js, starts programs
    with fed(content, far.detach()), os.fdopen(near.detach()) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield "-"


@contextmanager
def redirected_input(content: bytes, at: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    at.write_bytes(content)
    with at.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield "-"


@contextmanager
def link_to_pipe(content: bytes, at: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with named_pipe(content, at.with_name("pipe"), monkeypatch):
        at.symlink_to("pipe")
        yield str(at)


PIPES = [named_pipe, process_substitution, piped_input, socket_input, redirected_input, link_to_pipe]


@pytest.mark.parametrize("pipe", PIPES)
@pytest.mark.parametrize("kind", ["wav", "mp3", "mp4"])  # an MP4 file is read from its end
def test_sound_that_is_piped_in_is_read(
    tmp_path: Path, wav: Path, monkeypatch: pytest.MonkeyPatch, pipe: Callable, kind: str
) -> None:
    made = {
        "wav": lambda: wav,
        "mp3": lambda: write(tmp_path / "a.mp3", "libmp3lame", 16000, 1),
        "mp4": lambda: write(tmp_path / "a.mp4", "aac", 16000, 1),
    }[kind]()
    expected = read_audio(made)
    with pipe(made.read_bytes(), tmp_path / "piped", monkeypatch) as path:
        assert np.array_equal(read_audio(path), expected)


def test_a_video_takes_its_sound_from_a_pipe(tmp_path: Path, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with named_pipe(wav.read_bytes(), tmp_path / "pipe", monkeypatch) as path:
        write_video(tmp_path / "talk.mp4", frames(3), fps=25, sound=path)
    assert error_against_tone(read_audio(tmp_path / "talk.mp4")) < 1e-2


@pytest.mark.parametrize("pipe", PIPES)
def test_a_pipe_without_sound_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: Callable) -> None:
    with pipe(b"", tmp_path / "piped", monkeypatch) as path, pytest.raises(AudioError) as caught:
        read_audio(path)
    named = "the standard input" if path == "-" else path
    assert str(caught.value).startswith(f"{named} cannot be read as audio or video")


def test_what_is_neither_file_nor_pipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, says in [(tmp_path, "is a folder"), ("/dev/null", "is no file"), ("/dev/zero", "is no file")]:
        with pytest.raises(AudioError, match=says):
            read_audio(path)
    one, other = pty.openpty()
    with os.fdopen(one), os.fdopen(other) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        with pytest.raises(AudioError, match="nothing is piped"):
            read_audio("-")
    monkeypatch.setattr(sys, "stdin", None)  # a service without a standard input
    with pytest.raises(AudioError, match="nothing is piped"):
        read_audio("-")


def test_no_copy_of_a_pipe_is_left(tmp_path: Path, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with piped_input(wav.read_bytes(), tmp_path / "piped", monkeypatch) as path:
        read_audio(path)
    assert not list((tmp_path / "tmp").iterdir())
