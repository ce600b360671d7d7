"""Requests with much speech: the gateway passes on what their frames need, and the frames are the same."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest

from lipsync_mel import mel, speech_request, timeline
from lipsync_server.gateway import checks
from lipsync_server.gateway.gateway import Gateway
from lipsync_server.gateway.long_speech import LONG, is_long, shortened
from lipsync_server.gateway.refusal import Refused
from lipsync_server.gateway.tensors import request_of
from lipsync_server.serving import environment

MINUTE = 60 * 16_000
SPEECH = np.random.default_rng(0).normal(0, 0.1, 2 * MINUTE).astype(np.float32)
LAST = timeline.frame_total(len(SPEECH))
TYPES: dict[str, Any] = {"AUDIO_END": np.bool_, "FRAME_COUNT": np.int32}


def asked(audio: np.ndarray, **values: int) -> ModelInferRequest:
    return request_of(
        "anna", AUDIO=audio, **{name: np.array([value], TYPES.get(name, np.int64)) for name, value in values.items()}
    )


def parsed(request: ModelInferRequest) -> speech_request.SpeechRequest:
    values = {
        one.name: np.frombuffer(raw, {"FP32": np.float32, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}[
            one.datatype
        ])
        for one, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }  # fmt: skip
    names = ("AUDIO_START", "AUDIO_END", "FIRST_FRAME", "FRAME_COUNT", "FOOTAGE_START")
    return speech_request.parse(values["AUDIO"], *(values[name].item() if name in values else None for name in names))


def windows(wanted: speech_request.SpeechRequest) -> tuple[bytes, bytes]:
    starts, inside = timeline.row_windows(wanted.first_frame, wanted.frame_count, wanted.samples)
    made = mel.encoder_windows(mel.load_filterbank(), wanted.audio, wanted.audio_start, wanted.samples, starts, inside)
    return made.tobytes(), inside.tobytes()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"FRAME_COUNT": 1},
        {"FIRST_FRAME": 1000},
        {"FIRST_FRAME": 1500, "FRAME_COUNT": 7, "FOOTAGE_START": 3},
        {"FIRST_FRAME": LAST - 1},
        {"FIRST_FRAME": LAST - 32, "FRAME_COUNT": 32},
        {"FIRST_FRAME": LAST - 90},
        {"FIRST_FRAME": LAST - 60, "FRAME_COUNT": 20},
        {"AUDIO_END": 0},
        {"AUDIO_END": 0, "FIRST_FRAME": 2900},
        {"AUDIO_START": 320_000, "FIRST_FRAME": 600},
    ],
)
def test_the_stage_makes_the_same_windows_of_far_less_speech(values: dict[str, int]) -> None:
    whole = asked(SPEECH, **values)
    assert is_long(whole)
    short = shortened(whole)
    before, after = parsed(whole), parsed(short)
    assert len(after.audio) < 100_000
    for name in ("first_frame", "frame_count", "footage_start"):
        assert getattr(after, name) == getattr(before, name)
    assert windows(after) == windows(before)


def test_a_request_with_typed_contents_is_cut_too() -> None:
    request = ModelInferRequest(model_name="anna", id="7")
    request.inputs.add(name="AUDIO", datatype="FP32", shape=[LONG + 1]).contents.fp32_contents.extend(
        SPEECH[: LONG + 1]
    )
    request.inputs.add(name="FIRST_FRAME", datatype="INT64", shape=[1]).contents.int64_contents.append(40)
    request.parameters["timeout"].int64_param = 5
    short = shortened(request)
    assert windows(parsed(short)) == windows(parsed(asked(SPEECH[: LONG + 1], FIRST_FRAME=40)))
    assert short.id == "7" and short.parameters["timeout"].int64_param == 5


@pytest.mark.parametrize(
    ("audio", "values", "says"),
    [
        (np.where(np.arange(LONG * 2) == LONG, np.nan, 0).astype(np.float32), {}, f"AUDIO[{LONG}] is nan"),
        (np.full(LONG * 2, 12, np.float32), {}, "AUDIO reaches 12"),
        (SPEECH, {"FIRST_FRAME": LAST}, f"FIRST_FRAME is {LAST}"),
        (SPEECH, {"FRAME_COUNT": 33}, "FRAME_COUNT is 33"),
        (SPEECH, {"AUDIO_START": 160_000}, "AUDIO_START is 160000"),
    ],
)
def test_what_is_wrong_with_much_speech_is_said_as_by_the_stage(
    audio: np.ndarray, values: dict[str, int], says: str
) -> None:
    with pytest.raises(Refused) as caught:
        shortened(asked(audio, **values))
    assert caught.value.sentence.startswith(says) and caught.value.code.name == "INVALID_ARGUMENT"


def test_usual_requests_are_left_alone() -> None:
    assert not is_long(asked(SPEECH[:LONG])) and not is_long(request_of("composite", footage=np.zeros(9, np.int64)))


@pytest.mark.parametrize(
    ("mib", "says"), [(64, "has 64 MiB"), (1, "has 1 MiB"), (255, "--shm-size"), (256, None), (24_000, None)]
)
def test_small_shared_memory_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch, mib: int, says: str | None) -> None:
    state = SimpleNamespace(f_frsize=4096, f_blocks=mib << 8)
    monkeypatch.setattr("os.statvfs", lambda folder: state)
    trouble = environment.shared_memory_trouble()
    assert trouble is None if says is None else says in (trouble or "")


def test_the_gateway_sends_the_shorter_request(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    async def contract(*_: object) -> None: ...

    async def send(method: str, data: bytes, *_: object, **__: object) -> bytes:
        sent.append(data)
        return b""

    monkeypatch.setattr(checks, "check", lambda *_: None)
    stub: Any = SimpleNamespace(
        contract=contract,
        avatars=SimpleNamespace(serving=lambda model: nullcontext()),
        upstreams=SimpleNamespace(send=send),
    )
    for audio in (SPEECH, SPEECH[:LONG]):
        request = asked(audio, FIRST_FRAME=50)
        call: Any = SimpleNamespace(deadline=1.0)
        asyncio.run(Gateway._checked(stub, request, request.SerializeToString(), call))
        wanted = shortened(request) if audio is SPEECH else request
        assert ModelInferRequest.FromString(sent[-1]) == wanted
    assert len(sent[0]) < 200_000
