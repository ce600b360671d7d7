"""Facts of an avatar: what is written into a config is read from it, and is what a packed avatar may hold."""

from __future__ import annotations

import re

import pytest

from lipsync_client import Avatar, ServerError
from lipsync_client.avatar_facts import FACT_NAMES, AvatarFacts
from lipsync_client.avatar_file.fields import NETWORK_FIELDS
from lipsync_client.wire import avatar_from_parameters

ANNA = AvatarFacts("low", "anna", 77, "own", 640, 480, 250, "pingpong", 0, "0123456789ab")
PARAMETERS = {
    "preset": "low",
    "avatar_id": "anna",
    "avatar_key": "77",
    "audio_encoder": "own",
    "frame_width": "640",
    "frame_height": "480",
    "footage_frames": "250",
    "loop": "pingpong",
    "memory_mb": "0",
    "trial_cpu": "0123456789ab",
}


def test_the_parameters_are_those_of_the_published_contract() -> None:
    assert ANNA.to_parameters() == PARAMETERS
    assert set(FACT_NAMES) == set(PARAMETERS)


def test_written_facts_are_read_back() -> None:
    assert AvatarFacts.from_parameters(PARAMETERS | {"max_frames": "32"}) == ANNA
    assert avatar_from_parameters(PARAMETERS) == Avatar("anna", 77, 640, 480, 250, "pingpong", PARAMETERS["preset"])


def test_a_packed_avatar_may_hold_these_facts_and_no_other() -> None:
    for name in PARAMETERS:
        assert re.fullmatch(NETWORK_FIELDS, f"parameters.{name}.string_value")
    assert not re.fullmatch(NETWORK_FIELDS, "parameters.EXECUTION_ENV_PATH.string_value")


@pytest.mark.parametrize("wrong", [{"avatar_key": "x"}, {"loop": None}])
def test_incomplete_facts_are_refused(wrong: dict[str, str | None]) -> None:
    stated = {name: text for name, text in (PARAMETERS | wrong).items() if text is not None}
    with pytest.raises(ServerError, match="incomplete facts"):
        AvatarFacts.from_parameters(stated)


def test_a_memory_that_is_no_number_is_not_stated() -> None:
    assert AvatarFacts.from_parameters(PARAMETERS | {"memory_mb": "much"}).memory_mb is None
