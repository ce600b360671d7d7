"""Triton's errors as ours: told apart by codes where the sentence is our own, shown without Triton's wrapping."""

from __future__ import annotations

import pytest
from tritonclient.utils import InferenceServerException

from lipsync_client import ControlDenied, InvalidRequest, LipsyncError, Overloaded, ServerError, ServerUnavailable
from lipsync_client.retry import Attempts
from lipsync_client.wire import load_failure, plain, translate
from lipsync_mel import refusals
from lipsync_mel.in_flight import Full, Permits


def translated(text: str, status: str, avatar: str | None = "anna") -> LipsyncError:
    return translate(InferenceServerException(text, f"StatusCode.{status}"), url="here:1", avatar=avatar)


@pytest.mark.parametrize(
    "wrapping",
    [
        "",
        "in ensemble 'lipsync_ensemble', ",
        "[request id: 7] in ensemble 'lipsync_ensemble', ",
        "Failed to process the request(s) for model 'audio_0', message: ",
        "in ensemble 'anna', Failed to process the request(s) for model 'audio_0', message: Internal: ",
    ],
)
def test_a_stages_own_sentence_is_kept_and_tritons_wrapping_taken_off(wrapping: str) -> None:
    error = translated(f"{wrapping}AUDIO is empty: send at least 1 sample", "INVALID_ARGUMENT")
    assert (type(error), str(error)) == (InvalidRequest, "AUDIO is empty: send at least 1 sample")
    full = translated(f"{wrapping}{refusals.coded(refusals.OVERLOADED, 'no permit')}", "UNAVAILABLE")
    assert type(full) is Overloaded
    assert "(no permit)" in str(full) and "[" not in str(full)


def test_the_first_stages_own_refusal_is_overloaded(tmp_path) -> None:
    stage = Permits(tmp_path / "in_flight", 1)
    for began in (1, 2):  # the second gets the extra permit
        stage.acquire(began)
    with pytest.raises(Full) as refusal:
        stage.acquire(3)
    error = translated(f"in ensemble 'anna', {refusal.value}", "UNAVAILABLE")
    assert type(error) is Overloaded
    assert refusals.OVERLOADED not in str(error)


def test_a_code_is_split_from_its_sentence() -> None:
    assert refusals.parse(refusals.coded("some_code", "A sentence [1].")) == ("some_code", "A sentence [1].")
    assert refusals.parse("AUDIO[1] is nan") == ("", "AUDIO[1] is nan")
    assert refusals.parse("[request id: 7] text") == ("", "[request id: 7] text")


def test_tritons_unavailable_is_told_apart() -> None:
    restricted = "This protocol is restricted, expecting header 'triton-grpc-protocol-lipsync-control'"
    for text, kind in [
        (restricted, ControlDenied),
        (refusals.coded(refusals.OVERLOADED, "busy"), Overloaded),
        ("64 requests are on the way already", ServerUnavailable),  # the words do not decide
        ("failed to connect to all addresses", ServerUnavailable),
    ]:
        error = translated(text, "UNAVAILABLE")
        assert type(error) is kind
        assert "here:1" in str(error)


def test_a_request_that_a_replacement_overtook_may_be_sent_again() -> None:
    error = translated(
        "in ensemble 'anna', Request for unknown model: 'anna_lipsync' version 1 is not found", "NOT_FOUND"
    )
    assert "'anna' was replaced or unloaded" in str(error)
    assert Attempts().delay_after(error) > 0


def test_a_missing_stage_is_not_a_missing_avatar() -> None:
    error = translated("Request for unknown model: 'mel_preprocess' is not found", "NOT_FOUND", avatar=None)
    assert type(error) is ServerUnavailable
    assert "lip-sync models are not loaded" in str(error)


def test_an_unknown_failure_keeps_its_status_and_text() -> None:
    error = translated("stage died\n\nAt:\n  model.py(1): execute", "INTERNAL")
    assert (type(error), str(error)) == (ServerError, "The server at here:1 failed (INTERNAL): stage died")


def test_the_reason_of_a_failed_load_is_one_line() -> None:
    text = "load failed for model 'anna_lipsync': version 1 is at UNAVAILABLE state: Internal: no\n model.onnx; "
    assert load_failure(text) == "no model.onnx"
    assert plain("Internal: TritonModelException: bad config") == "bad config"
