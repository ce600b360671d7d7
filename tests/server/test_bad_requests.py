"""Every bad request gets INVALID_ARGUMENT with a sentence that names the field and the value, and harms no other."""

import re

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from conftest import infer
from speech import real_speech

SPEECH = real_speech()[:32000]  # frames 0 .. 49; 0 .. 38 while unfinished
SIX = np.zeros((2, 6, 320, 320), np.float32)
BAD = {
    # what is wrong: (inputs, the sentence)
    "no audio": ({}, "AUDIO is missing"),
    "empty audio": ({"AUDIO": []}, "AUDIO is empty"),
    "nan": ({"AUDIO": [0.0, float("nan"), 0.0]}, r"AUDIO\[1\] is nan: every sample must be finite"),
    "infinity": ({"AUDIO": [0.0] * 9 + [float("-inf")]}, r"AUDIO\[9\] is -inf"),
    "31 minutes": ({"AUDIO": np.zeros(31 * 60 * 16000, np.float32)}, "AUDIO has 29760000 samples: at most 28800000"),
    "count 0": ({"AUDIO": SPEECH, "FRAME_COUNT": 0}, "FRAME_COUNT is 0: it must be from 1 to 32"),
    "count -1": ({"AUDIO": SPEECH, "FRAME_COUNT": -1}, "FRAME_COUNT is -1"),
    "count 33": ({"AUDIO": SPEECH, "FRAME_COUNT": 33}, "FRAME_COUNT is 33: it must be from 1 to 32"),
    "count 2^31-1": ({"AUDIO": SPEECH, "FRAME_COUNT": 2**31 - 1}, "FRAME_COUNT is 2147483647"),
    "first -1": ({"AUDIO": SPEECH, "FIRST_FRAME": -1}, "FIRST_FRAME is -1: it must be from 0"),
    "first after the end": ({"AUDIO": SPEECH, "FIRST_FRAME": 50}, "FIRST_FRAME is 50: .* frames 0 to 49 only"),
    "first 2^63-1": ({"AUDIO": SPEECH, "FIRST_FRAME": 2**63 - 1}, "FIRST_FRAME is 9223372036854775807"),
    "last after the end": (
        {"AUDIO": SPEECH, "FIRST_FRAME": 45, "FRAME_COUNT": 6},
        "FIRST_FRAME is 45 and FRAME_COUNT 6: .* frames 0 to 49 only",
    ),
    "look-ahead missing": (
        {"AUDIO": SPEECH, "AUDIO_END": False, "FIRST_FRAME": 39},
        "frame 39 needs the speech up to sample 32200, AUDIO ends at 32000, so 200 samples are missing",
    ),
    "look-ahead of the last missing": (
        {"AUDIO": SPEECH, "AUDIO_END": False, "FIRST_FRAME": 38, "FRAME_COUNT": 3},
        "frame 40 needs .* so 840 samples are missing",
    ),
    "too little for any frame": ({"AUDIO": SPEECH[:7239], "AUDIO_END": False}, "so 1 samples are missing"),
    "audio before the frames missing": (
        {"AUDIO": SPEECH, "AUDIO_START": 1},
        "AUDIO_START is 1: FIRST_FRAME 0 needs the speech from sample 0 on, so 1 samples are missing before AUDIO",
    ),
    "one sample before missing": (
        {"AUDIO": SPEECH, "AUDIO_START": 640 * 20 - 6320, "AUDIO_END": False, "FIRST_FRAME": 20, "FRAME_COUNT": 1},
        "so 1 samples are missing before AUDIO",
    ),
    "start -1": ({"AUDIO": SPEECH, "AUDIO_START": -1}, "AUDIO_START is -1"),
    "start 2^62": ({"AUDIO": SPEECH, "AUDIO_START": 2**62}, "AUDIO_START is 4611686018427387904"),
    "footage -1": ({"AUDIO": SPEECH, "FOOTAGE_START": -1}, "FOOTAGE_START is -1"),
    "footage 2^63-1": ({"AUDIO": SPEECH, "FOOTAGE_START": 2**63 - 1}, "FOOTAGE_START is 9223372036854775807"),
    # Triton's own sentences
    "audio as integers": ({"AUDIO": (SPEECH * 32767).astype(np.int16)}, "'AUDIO'.*INT16"),
    "audio in double": ({"AUDIO": SPEECH.astype(np.float64)}, "'AUDIO'.*FP64"),
    "audio of two channels": ({"AUDIO": np.stack([SPEECH, SPEECH])}, "'AUDIO'.*Expected"),
    "count as INT64": ({"AUDIO": SPEECH, "FRAME_COUNT": np.array([3], np.int64)}, "'FRAME_COUNT'.*INT64"),
    "two first frames": ({"AUDIO": SPEECH, "FIRST_FRAME": [0, 1]}, "'FIRST_FRAME'"),
    "unknown input": ({"AUDIO": SPEECH, "AUDIO_STRAT": [0]}, "AUDIO_STRAT"),
}
BAD_VISUAL = {
    "no visual frames": ({"AUDIO": SPEECH}, "VISUAL_FRAMES is missing"),
    "more than FRAME_COUNT": (
        {"AUDIO": SPEECH, "FRAME_COUNT": 1, "VISUAL_FRAMES": SIX},
        "VISUAL_FRAMES has 2 frames: it must have 1, as FRAME_COUNT says",
    ),
    "fewer than FRAME_COUNT": ({"AUDIO": SPEECH, "FRAME_COUNT": 3, "VISUAL_FRAMES": SIX}, "it must have 3"),
    "three channels": ({"AUDIO": SPEECH, "VISUAL_FRAMES": SIX[:, :3]}, "'VISUAL_FRAMES'.*Expected"),
    "no audio": ({"VISUAL_FRAMES": SIX}, "AUDIO is missing"),
}
MOUTH = np.zeros((1, 320, 320, 3), np.uint8)
BAD_COMPOSITE = {
    "unknown avatar": ({"avatar_key": [[12345]], "footage_position": [[0]]}, "avatar_key.*12345"),
    "negative position": ({"footage_position": [[-1]]}, "footage_position.*-1"),
    "more mouths than positions": ({"mouth": np.repeat(MOUTH, 2, 0), "footage_position": [[0]]}, "mouth"),
    "more frame indices": ({"mouth": MOUTH, "footage_position": [[0]], "frame_index": [1, 2]}, "frame_index"),
}


def refused(client, model: str, inputs: dict) -> str:
    """The sentence of a request that must be refused as INVALID_ARGUMENT."""
    with pytest.raises(InferenceServerException) as caught:
        infer(client, model, **inputs)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT", caught.value
    return caught.value.message()


@pytest.fixture(scope="module")
def good(client):
    """A good request's answer, to be had again after each bad one."""
    expected = infer(client, "lipsync_ensemble", AUDIO=SPEECH, FRAME_COUNT=1).JPEG.tolist()
    return lambda: infer(client, "lipsync_ensemble", AUDIO=SPEECH, FRAME_COUNT=1).JPEG.tolist() == expected


def matches(pattern: str, message: str) -> None:
    assert re.search(pattern, message), message
    assert "Traceback" not in message


@pytest.mark.parametrize("case", BAD)
def test_bad_request_is_refused_by_name_and_the_next_is_served(client, good, case):
    inputs, sentence = BAD[case]
    matches(sentence, refused(client, "lipsync_ensemble", inputs))
    assert good()


@pytest.mark.parametrize("case", BAD_VISUAL)
def test_bad_visual_request_is_refused_by_name(client, good, case):
    inputs, sentence = BAD_VISUAL[case]
    matches(sentence, refused(client, "lipsync_visual_ensemble", inputs))
    assert good()


@pytest.mark.parametrize("case", BAD_COMPOSITE)
def test_bad_call_of_composite_is_refused_by_name(client, good, demo, case):
    inputs, sentence = BAD_COMPOSITE[case]
    matches(sentence, refused(client, "composite", {"avatar_key": [[demo[0]]]} | inputs))
    assert good()


def test_garbled_bytes_are_refused(client, good):
    """Raw content shorter than its shape says."""
    tensor = grpc.InferInput("AUDIO", [16000], "FP32")
    tensor._raw_content = b"\0" * 100
    with pytest.raises(InferenceServerException) as caught:
        client.infer("lipsync_ensemble", [tensor], client_timeout=60)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert good()
