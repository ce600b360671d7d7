"""The default model repository: the checkout's, or one laid out in a home from what is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from checkout import ROOT
from lipsync_client.cli.avatars import default_repository
from lipsync_server import home


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is given, and its model repository."""
    monkeypatch.setenv("LIPSYNC_HOME", str(tmp_path / "home é"))
    return tmp_path / "home é" / "model_repository"


def state(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_in_a_checkout_it_is_the_checkouts(monkeypatch):
    monkeypatch.delenv("LIPSYNC_HOME", raising=False)
    assert home.repository() == home.repository_folder() == ROOT / "model_repository"
    assert not (ROOT / "model_repository" / home.STAMPS).exists()
    assert default_repository() == ROOT / "model_repository"


def test_elsewhere_it_is_laid_out_with_the_stages_packages(folder):
    assert home.repository_folder() == folder
    assert not folder.exists(), "only asked where it is"
    assert home.repository() == folder == default_repository()
    for name in ("mel_preprocess/1/model.py", "lipsync/config.template.pbtxt", "lipsync_ensemble/config.pbtxt"):
        assert (folder / name).read_bytes() == (ROOT / "model_repository" / name).read_bytes()
    for stage, package in home.STAGES.items():
        assert (folder / stage / "1" / package / "__init__.py").is_file()
    assert (folder / "mel_preprocess/1/lipsync_mel/filterbank.npy").is_file()
    assert {path.name for path in folder.iterdir()} == {*home.MODELS, home.STAMPS}
    assert all((folder / model / "1").is_dir() for model in home.MODELS)
    assert not (folder / "lipsync/config.pbtxt").exists(), "built, not carried"
    assert not list(folder.rglob("__pycache__"))


def test_nothing_is_written_where_nothing_has_changed(folder):
    before = state(home.repository())
    (folder / "lipsync_ensemble/config.pbtxt").write_text("as a build has left it")
    left = state(folder)
    assert left.keys() == before.keys()
    home.repository()
    assert state(folder) == left


def test_an_upgrade_replaces_what_it_changed_and_removes_what_it_dropped(folder, monkeypatch):
    before = state(home.repository())
    carried = dict(home._carried())
    dropped, changed = "composite/1/lipsync_composite/loop.py", "composite/config.pbtxt"
    news = folder.parent / "config.pbtxt"
    news.write_text("# of the next version")
    monkeypatch.setattr(
        home, "_carried", lambda: iter([(n, p) for n, p in ({**carried, changed: news}).items() if n != dropped])
    )
    home.repository()
    assert (folder / changed).read_text() == "# of the next version"
    assert not (folder / dropped).exists()
    after = state(folder)
    assert {path.name for path in after if path.is_file() and after[path] != before.get(path)} == {
        "config.pbtxt",
        home.STAMPS,
    }


def test_a_file_that_was_lost_comes_back(folder):
    (home.repository() / "composite/1/model.py").unlink()
    assert (home.repository() / "composite/1/model.py").is_file()


def test_without_a_given_home_an_installation_uses_the_users_data(tmp_path, monkeypatch):
    monkeypatch.delenv("LIPSYNC_HOME", raising=False)
    monkeypatch.setattr(home, "IN_CHECKOUT", False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert home.repository() == tmp_path / "lipsync" / "model_repository"


def test_a_home_that_cannot_be_made_is_one_sentence():
    for command in (["build"], ["avatars", "remove", "anna"], ["avatars", "pack", str(ROOT / "avatars/demo")]):
        program = [sys.executable, "-m", "lipsync_client.cli.main", "--home", "/proc/mine", *command]
        run = subprocess.run(program, capture_output=True, text=True, timeout=60)
        assert run.returncode == 1
        assert run.stderr == "/proc/mine cannot be written (No such file or directory).\n"


def test_the_sample_and_the_sources_are_where_they_are_installed():
    assert len(home.read_sample()) == 113_600
    assert home.AVATARS.is_relative_to(ROOT)
    assert (Path(str(files("lipsync_server"))) / "shipped" / "server.yaml").resolve() == home.SETTINGS
