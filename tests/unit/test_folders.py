"""The user's folders: where the system wants them, else private ones under the temporary directory."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from lipsync_client.errors import LipsyncError
from lipsync_client.folders import cache_folder, cached, data_folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of the test's own, and no variable that names a folder."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp" / f"lipsync-{os.getuid()}"


@pytest.fixture
def nobody(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without HOME and without an entry in the system's list of users."""

    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    return temporary


def test_they_are_where_linux_wants_them(temporary, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home/.cache/lipsync"
    assert data_folder() == tmp_path / "home/.local/share/lipsync"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caché x"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert cache_folder() == tmp_path / "caché x/lipsync"
    assert cache_folder().stat().st_mode & 0o777 == 0o700
    assert data_folder() == tmp_path / "data/lipsync"


def test_without_home_or_passwd_entry_a_private_folder_serves(nobody, tmp_path):
    assert cache_folder() == nobody / "cache"
    assert data_folder() == nobody / "data"
    assert nobody.stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("home", ["/proc/home", "relative", "/dev/null"])
def test_a_home_that_cannot_be_used_is_replaced(nobody, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    assert cache_folder() == nobody / "cache"
    assert data_folder() == nobody / "data"


def test_data_that_can_only_be_read_is_used(temporary, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "lipsync").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert data_folder() == tmp_path / "lipsync"


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_folder_that_others_may_use_is_refused(nobody, mode):
    nobody.mkdir()
    nobody.chmod(mode)
    with pytest.raises(LipsyncError, match="not a private folder of this user: remove it, or set XDG_CACHE_HOME"):
        cache_folder()
    assert cached("control.key") is None


def test_a_link_that_somebody_else_planted_is_refused(nobody, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    nobody.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LipsyncError, match="not a private folder"):
        cache_folder()


def test_another_users_folder_is_refused(nobody, monkeypatch):
    cache_folder()
    user = os.getuid()
    nobody.rename(nobody.with_name(f"lipsync-{user + 1}"))
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(LipsyncError, match="not a private folder"):
        cache_folder()


def test_no_temporary_directory_is_one_sentence(nobody, monkeypatch):
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(LipsyncError, match="set XDG_CACHE_HOME and XDG_DATA_HOME"):
        cache_folder()


def test_a_cached_file_is_found_where_it_is_and_nothing_is_made(nobody, tmp_path, monkeypatch):
    assert cached("control.key") is None
    assert not nobody.exists()
    (cache_folder() / "control.key").write_text("fallback")
    assert cached("control.key") == nobody / "cache/control.key"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cached("control.key") == nobody / "cache/control.key"
    (tmp_path / "lipsync").mkdir()
    (tmp_path / "lipsync/control.key").write_text("of the user")
    assert cached("control.key") == tmp_path / "lipsync/control.key"
