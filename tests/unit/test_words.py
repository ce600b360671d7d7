"""What people are told: commands say what they can do, and visitors of the page never read operators' words."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import pytest
from client_fake import FakeServer, running
from tritonclient.grpc import service_pb2
from typer.testing import CliRunner

from checkout import ROOT
from lipsync_client import (
    AccessDenied,
    AudioError,
    AvatarNotFound,
    InvalidRequest,
    LipsyncError,
    Overloaded,
    ServerError,
    ServerUnavailable,
    Timeout,
    UntrustedServer,
)
from lipsync_client.avatar_file.names import PackedError, check_removable
from lipsync_client.cli import web
from lipsync_client.cli.main import app
from lipsync_client.cli.tables import slow_advice
from lipsync_client.web import words
from lipsync_server.cli import demo
from lipsync_server.repository.source import AvatarSource, SourceError

OPERATORS = re.compile(r"\d+\.\d+\.\d+\.\d+|time-?out|lipsync |[Tt]oken|Triton|gRPC|--|`|pip |[A-Z_]{6,}")


@pytest.mark.parametrize(
    ("avatar", "says"),
    [
        ("demo", "lipsync avatars unload demo"),
        ("composite", "part of the server"),
        ("lipsync_ensemble", "part of the server"),
        ("anna_lipsync", "lipsync avatars remove anna"),
        ("anna_audio_encoder", "lipsync avatars remove anna"),
        ("Anna", "`lipsync avatars` lists them"),
        ("../anna", "`lipsync avatars` lists them"),
        ("", "`lipsync avatars` lists them"),
    ],
)
def test_what_cannot_be_removed_says_what_can_be_done(avatar: str, says: str) -> None:
    with pytest.raises(PackedError, match=re.escape(says)) as caught:
        check_removable(avatar)
    assert "cannot be used" not in str(caught.value)


def prepared(folder: Path) -> Path:
    """An avatar's folder as the preparation leaves it."""
    shutil.copytree(ROOT / "avatars" / "demo", folder, ignore=shutil.ignore_patterns("*.onnx"))
    return folder


def test_an_avatar_that_is_not_trained_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no network unet\.onnx yet: train it"):
        AvatarSource.read(prepared(tmp_path / "anna"))


@pytest.mark.parametrize(
    ("made", "given", "says"),
    [
        ("avatars/anna/avatar.yaml", "avatars", "holds several folders: give one of them"),
        ("work/anna/prepared.yaml", "work/anna", "is a training folder: give the avatar's own, such as avatars/anna"),
        ("else/speech.wav", "else", "needs one"),
        ("landmarks/0.lms", ".", "needs one"),
        ("clips/a/frames.npz", "clips", "needs one"),
    ],
)
def test_another_folder_than_an_avatars_says_which_to_give(tmp_path: Path, made: str, given: str, says: str) -> None:
    (tmp_path / made).parent.mkdir(parents=True)
    (tmp_path / made).touch()
    with pytest.raises(SourceError, match=re.escape(says)):
        AvatarSource.read(tmp_path / given)


@pytest.mark.parametrize(
    "failure",
    [
        ServerUnavailable("No lip-sync server answers at 127.0.0.1:8001. Start one with `lipsync serve`"),
        UntrustedServer("The certificate of grpcs://example is not trusted"),
        Timeout("The server at 10.0.0.3:8001 did not answer within 10 s: the time-out is too short"),
        Overloaded("The server at 127.0.0.1:8001 has 64 requests in flight"),
        AvatarNotFound("There is no avatar 'nobody' on the server at 127.0.0.1:8001"),
        AccessDenied("The server wants a token: --token-file or LIPSYNC_TOKEN"),
        InvalidRequest("AUDIO has a peak of 12"),
        ServerError("Triton failed: onnxruntime"),
        AudioError("samples are int64: give np.int16"),
        LipsyncError("pip install 'lipsync-triton[web]'"),
    ],
)
def test_visitors_read_no_operators_words_and_the_log_has_them(
    failure: LipsyncError, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "_logged", {})
    with caplog.at_level(logging.WARNING):
        said = [words.for_visitors(failure) for _ in range(3)]
    assert len(set(said)) == 1 and said[0].endswith(".") and not OPERATORS.search(said[0])
    assert caplog.text.count(str(failure)) == 1


def test_a_text_that_cannot_be_spoken_is_told_to_whoever_wrote_it() -> None:
    assert words.for_visitors(words.VoiceError("Try a shorter text.")) == "Try a shorter text."


def test_the_pages_own_files_have_no_operators_words() -> None:
    page = ROOT / "client/lipsync_client/web/page"
    for file in ("index.html", "notice.js"):
        text = re.sub(r"//.*|/\*.*?\*/|<!--.*?-->", "", (page / file).read_text(), flags=re.DOTALL)
        assert "lipsync web" not in text and "espeak" not in text


class Listing(FakeServer):
    """A server that is up, and lists its avatars to whoever has the control key."""

    def ServerLive(self, request, context):
        return service_pb2.ServerLiveResponse(live=True)

    def ServerMetadata(self, request, context):
        return service_pb2.ServerMetadataResponse(version="2.51.0")

    def RepositoryIndex(self, request, context):
        answer = service_pb2.RepositoryIndexResponse()
        for name in ("lipsync", "lipsync_ensemble", "anna", "anna_lipsync"):
            answer.models.add(name=name, state="READY")
        return answer


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize(
    ("offered", "missing"), [(["demo"], ""), ([], ""), (["nobody"], "nobody"), (["demo", "Demo"], "Demo")]
)
def test_a_page_for_an_avatar_that_is_not_there_does_not_start(
    monkeypatch: pytest.MonkeyPatch, key: str | None, offered: list[str], missing: str
) -> None:
    monkeypatch.setattr(web, "find_key", lambda url: key)
    with running(Listing()) as fake:
        if missing:
            with pytest.raises(AvatarNotFound, match=missing):
                web._trouble_with(fake.url, {"token": None, "headers": {}}, offered)
        else:
            assert web._trouble_with(fake.url, {"token": None, "headers": {}}, offered) is None


@pytest.mark.parametrize(
    ("speed", "preset", "says"),
    [
        (0.51, "turbo", "a GPU"),
        (0.51, "low", "lipsync avatars distil"),
        (0.99, "exact", "lipsync avatars distil"),
        (0.2, "", "lipsync avatars distil"),
        (1.0, "low", ""),
        (4.0, "high", ""),
    ],
)
def test_slower_than_real_time_says_why_and_what_to_do(speed: float, preset: str, says: str) -> None:
    stages = {name: {"p50": p50, "p95": p50} for name, p50 in (("audio", 3), ("inference", 900), ("total", 950))}
    figures = {"times_real_time": speed, "frames_per_s": 25 * speed, "server_ms": stages}
    advice = slow_advice(figures, preset)
    assert bool(advice) == bool(says) and says in advice
    if says:
        assert "waiting for inference" in advice and f"{25 * speed:.0f} frames/s" in advice


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "a.gif"], "says no video format"),
        (["-o", "a"], "says no video format"),
        (["-o", "missing/a.mp4"], "missing"),
        (["missing.wav"], "there is no file missing.wav"),
        (["text.txt"], "text.txt"),
        (["."], "."),
    ],
)
def test_the_demo_refuses_before_it_builds_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("no sound")
    monkeypatch.setattr(demo, "check_installed", lambda: pytest.fail("too late"))
    outcome = CliRunner().invoke(app, ["demo", *arguments])
    assert outcome.exit_code == 1 and says in outcome.output
