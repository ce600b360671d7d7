"""Names, keys and sentences of the control side; the calls themselves are tested against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from lipsync_client import (
    AudioError,
    AvatarNotFound,
    ControlDenied,
    InvalidRequest,
    LipsyncError,
    Overloaded,
    ServerError,
    ServerUnavailable,
    Timeout,
    wire,
)
from lipsync_client.control.control import AvatarState, ModelState, avatars_in, find_key
from lipsync_client.retry import Attempts
from lipsync_mel import refusals


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


def test_waits_before_sending_again_grow_and_end() -> None:
    attempts = Attempts()
    delays = [attempts.delay_after(Overloaded()) for _ in range(Overloaded.retries)]
    assert all(min(0.2 * 2**k, 4) <= delay <= min(0.3 * 2**k, 6) for k, delay in enumerate(delays))
    with pytest.raises(Overloaded):
        attempts.delay_after(Overloaded())
    for hopeless in (InvalidRequest(), AudioError(), ControlDenied(), LipsyncError(), ServerError(), AvatarNotFound()):
        with pytest.raises(type(hopeless)):
            Attempts().delay_after(hopeless)
    attempts = Attempts()
    assert attempts.delay_after(Timeout()) > 0
    with pytest.raises(Timeout):
        attempts.delay_after(Timeout())


def test_every_address_is_tried_before_a_pause_and_the_worst_is_told() -> None:
    attempts = Attempts(addresses=3, first=1)
    assert [(attempts.address, attempts.delay_after(AvatarNotFound())) for _ in range(2)] == [(1, 0.0), (2, 0.0)]
    assert attempts.address == 0
    assert attempts.delay_after(Overloaded()) > 0  # one of three may pass: all are tried again
    for _ in range(2):
        assert attempts.delay_after(AvatarNotFound()) == 0.0
    with pytest.raises(AvatarNotFound):
        attempts.delay_after(ServerError("of the third address"))


def test_patience_ends_the_attempts() -> None:
    attempts = Attempts(patience=1.0, now=iter([0.0, 0.1, 0.9]).__next__)
    assert attempts.delay_after(Overloaded()) > 0
    with pytest.raises(Overloaded):
        attempts.delay_after(Overloaded())


def test_a_stages_own_sentence_is_kept_and_tritons_wrapping_taken_off() -> None:
    for text in (
        "in ensemble 'lipsync_ensemble', AUDIO is empty: send at least 1 sample",
        "Failed to process the request(s) for model 'audio_0', message: AUDIO is empty: send at least 1 sample",
    ):
        error = wire.translate(InferenceServerException(text, "StatusCode.INVALID_ARGUMENT"), url="here:1")
        assert (type(error), str(error)) == (InvalidRequest, "AUDIO is empty: send at least 1 sample")


def test_tritons_unavailable_is_told_apart() -> None:
    restricted = "This protocol is restricted, expecting header 'triton-grpc-protocol-lipsync-control'"
    for text, kind in [
        (restricted, ControlDenied),
        (refusals.coded(refusals.OVERLOADED, "64 requests are in flight"), Overloaded),
        ("failed to connect to all addresses", ServerUnavailable),
    ]:
        error = wire.translate(InferenceServerException(text, "StatusCode.UNAVAILABLE"), url="here:1")
        assert type(error) is kind
        assert "here:1" in str(error) and "[" not in str(error)


def test_a_request_that_a_replacement_overtook_is_sent_again() -> None:
    text = "in ensemble 'anna', Request for unknown model: 'anna_lipsync' version 1 is not found"
    error = wire.translate(InferenceServerException(text, "StatusCode.NOT_FOUND"), url="here:1", avatar="anna")
    assert "'anna' was replaced or unloaded" in str(error)
    assert Attempts().delay_after(error) > 0


def test_errors_are_pythons_own_kinds_too() -> None:
    assert issubclass(ServerUnavailable, ConnectionError)
    assert issubclass(Timeout, TimeoutError)
    assert issubclass(InvalidRequest, ValueError)
