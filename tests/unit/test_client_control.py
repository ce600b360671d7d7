"""Names, keys and states of the control side; the calls themselves are tested against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipsync_client import InvalidRequest, ServerUnavailable, Timeout, wire
from lipsync_client.control.control import AvatarState, ModelState, avatars_in, find_key


def models(**states: str) -> list[ModelState]:
    """Models with a state, or "state: reason"."""
    return [ModelState(name, *(f"{text}: ".split(": ")[:2])) for name, text in states.items()]


def test_avatars_are_the_models_with_a_lipsync_model() -> None:
    found = avatars_in(
        models(
            mel_preprocess="READY",
            lipsync="READY",
            lipsync_ensemble="READY",
            lipsync_visual="READY",
            lipsync_visual_ensemble="READY",
            anna_lipsync="",
            anna="",
            ben_lipsync="UNAVAILABLE: unet.onnx is broken",
            ben="UNAVAILABLE: depends on ben_lipsync",
            zoe_lipsync="UNAVAILABLE: unloaded",
            zoe="UNAVAILABLE: unloaded",
            lost_lipsync="READY",
        )
    )
    assert found == [
        AvatarState("anna", False, ""),
        AvatarState("ben", False, "unet.onnx is broken"),
        AvatarState("demo", True, ""),
        AvatarState("lost", False, "its ensemble 'lost' is missing"),
        AvatarState("zoe", False, ""),
    ]


def test_what_was_never_loaded_is_told_from_what_was_unloaded() -> None:
    found = avatars_in(
        models(
            anna_lipsync="", anna="",
            zoe_lipsync="UNAVAILABLE: unloaded", zoe="UNAVAILABLE: unloaded",
            ben_lipsync="UNAVAILABLE: unet.onnx is broken", ben="",
            cleo_lipsync="UNLOADING", cleo="UNAVAILABLE: unloaded",
        )
    )  # fmt: skip
    assert [one.phase for one in found] == ["not loaded", "failed", "unloading", "unloaded"]


def test_models_of_an_avatar() -> None:
    assert (wire.ensemble_of("demo"), wire.lipsync_of("demo")) == ("lipsync_ensemble", "lipsync")
    assert (wire.ensemble_of("anna"), wire.lipsync_of("anna")) == ("anna", "anna_lipsync")


def test_the_key_comes_from_the_environment_or_the_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIPSYNC_CONTROL_KEY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert find_key() is None
    (tmp_path / "cache/lipsync").mkdir(parents=True)
    (tmp_path / "cache/lipsync/control.key").write_text("from-the-file\n")
    assert find_key() == "from-the-file"
    monkeypatch.setenv("LIPSYNC_CONTROL_KEY", "from-the-environment")
    assert find_key() == "from-the-environment"
    monkeypatch.delenv("LIPSYNC_CONTROL_KEY")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/.cache/lipsync").mkdir(parents=True)
    (tmp_path / "home/.cache/lipsync/control.key").write_text("at home")
    assert find_key() == "at home"


def test_errors_are_pythons_own_kinds_too() -> None:
    assert issubclass(ServerUnavailable, ConnectionError)
    assert issubclass(Timeout, TimeoutError)
    assert issubclass(InvalidRequest, ValueError)
