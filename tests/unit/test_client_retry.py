"""The one retry policy: how often, after which delay, and which address is asked next."""

from __future__ import annotations

import pytest

from lipsync_client import (
    AccessDenied,
    AudioError,
    AvatarNotFound,
    ControlDenied,
    InvalidRequest,
    LipsyncError,
    Overloaded,
    ServerError,
    ServerUnavailable,
    Timeout,
    UntrustedServer,
)
from lipsync_client.retry import Attempts


def test_waits_before_sending_again_grow_and_end() -> None:
    attempts = Attempts()
    delays = [attempts.delay_after(Overloaded()) for _ in range(Overloaded.retries)]
    assert all(min(0.2 * 2**k, 4) <= delay <= min(0.3 * 2**k, 6) for k, delay in enumerate(delays))
    with pytest.raises(Overloaded):
        attempts.delay_after(Overloaded())
    hopeless_ones = (AccessDenied, AudioError, AvatarNotFound, ControlDenied, InvalidRequest, LipsyncError, ServerError)
    for hopeless in [kind() for kind in (*hopeless_ones, UntrustedServer)]:
        with pytest.raises(type(hopeless)):
            Attempts().delay_after(hopeless)
    attempts = Attempts()
    assert attempts.delay_after(Timeout()) > 0
    with pytest.raises(Timeout):
        attempts.delay_after(Timeout())


def test_each_kind_of_failure_has_its_own_number_of_attempts() -> None:
    attempts = Attempts()
    for _ in range(3):
        attempts.delay_after(ServerUnavailable())
    attempts.delay_after(Timeout())  # the first one: the server is back, and slow at first
    for _ in range(ServerUnavailable.retries - 3):
        attempts.delay_after(ServerUnavailable())
    for last in (Timeout(), ServerUnavailable()):
        with pytest.raises(type(last)):
            attempts.delay_after(last)


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


def test_the_first_address_of_each_round_is_the_one_that_began() -> None:
    attempts, asked, delays = Attempts(3, first=2), [], []
    for _ in range(6):
        asked.append(attempts.address)
        delays.append(attempts.delay_after(ServerUnavailable()))
    assert asked == [2, 0, 1, 2, 0, 1]
    assert [delay > 0 for delay in delays] == [False, False, True] * 2
    assert delays[5] > delays[2]


@pytest.mark.parametrize("failure", [AvatarNotFound(), ServerError()])
def test_what_one_address_lacks_another_may_have(failure: LipsyncError) -> None:
    attempts = Attempts(2)
    assert attempts.delay_after(failure) == 0
    with pytest.raises(type(failure)):
        attempts.delay_after(failure)


def test_the_failure_most_worth_repeating_decides_and_is_raised() -> None:
    attempts, unavailable = Attempts(2), ServerUnavailable()
    for _ in range(ServerUnavailable.retries):
        assert attempts.delay_after(unavailable) == 0
        assert attempts.delay_after(AvatarNotFound()) > 0
    attempts.delay_after(unavailable)
    with pytest.raises(ServerUnavailable) as raised:
        attempts.delay_after(AvatarNotFound())
    assert raised.value is unavailable


def test_a_wrong_request_is_not_sent_to_another_address() -> None:
    with pytest.raises(InvalidRequest):
        Attempts(2).delay_after(InvalidRequest())
