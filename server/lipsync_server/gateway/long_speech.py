"""Speech that is much longer than a request's frames need is cut to what they need, before it goes to a server.

Triton copies inputs into shared memory, which it never shrinks: in a container with the usual 64 MiB, one request with
five minutes of speech could leave no room for others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.utils import triton_to_np_dtype

from lipsync_mel import speech_request, timeline
from lipsync_server.gateway.refusal import Refused, invalid

__all__ = ["LONG", "is_long", "shortened", "shortened_or_why"]

LONG = 10 * timeline.SAMPLE_RATE  # samples; the frames of one request need some 35,000
FROM_END = 2 * timeline.SAMPLE_RATE  # samples: so near, the rules for the end of a speech may matter
POSITIONS = ("AUDIO_START", "FIRST_FRAME", "FRAME_COUNT", "FOOTAGE_START")


def is_long(request: ModelInferRequest) -> bool:
    """Whether a checked request carries speech that is worth cutting."""
    return any(one.name == "AUDIO" and one.shape[0] > LONG for one in request.inputs)


def shortened(request: ModelInferRequest) -> ModelInferRequest:
    """A checked request as one with less speech, which gets the same frames.

    Raises:
        Refused: the speech, or what is asked of it, is wrong; the sentence is the stage's own.
    """
    raw = list(request.raw_input_contents) or [None] * len(request.inputs)
    inputs = {one.name: _values(one, data) for one, data in zip(request.inputs, raw, strict=True)}
    given = {name: int(inputs[name][0]) for name in POSITIONS if name in inputs}
    visual = inputs.get("VISUAL_FRAMES")
    try:
        wanted = speech_request.parse(
            inputs["AUDIO"],
            given.get("AUDIO_START"),
            bool(inputs["AUDIO_END"][0]) if "AUDIO_END" in inputs else None,
            given.get("FIRST_FRAME"),
            given.get("FRAME_COUNT"),
            given.get("FOOTAGE_START"),
            None if visual is None else len(visual),
        )
    except ValueError as error:
        raise invalid(str(error), "speech") from None
    start, stop = timeline.samples_needed(wanted.first_frame, wanted.frame_count)
    end = wanted.audio_start + len(wanted.audio)
    at_end = wanted.samples is not None and stop + FROM_END > end
    inputs["AUDIO"] = wanted.audio[start - wanted.audio_start : (end if at_end else stop) - wanted.audio_start]
    inputs["AUDIO_START"] = np.array([start], np.int64)
    inputs["AUDIO_END"] = np.array([at_end])
    inputs["FRAME_COUNT"] = np.array([wanted.frame_count], np.int32)
    return _with_inputs(request, inputs)


def shortened_or_why(request: ModelInferRequest) -> ModelInferRequest | str:
    """As `shortened`, with the sentence of a refusal in its place: so no exception keeps frames with the speech."""
    try:
        return shortened(request)
    except Refused as refused:
        return refused.sentence


def _values(tensor: Any, raw: bytes | None) -> NDArray[Any]:
    dtype = triton_to_np_dtype(tensor.datatype)
    if raw is not None:
        return np.frombuffer(raw, dtype).reshape(tuple(tensor.shape))
    contents = next(iter(tensor.contents.ListFields()), (None, ()))[1]
    return np.array(contents, dtype).reshape(tuple(tensor.shape))


def _with_inputs(request: ModelInferRequest, inputs: dict[str, NDArray[Any]]) -> ModelInferRequest:
    changed = ModelInferRequest(model_name=request.model_name, model_version=request.model_version, id=request.id)
    changed.outputs.extend(request.outputs)
    for name, parameter in request.parameters.items():
        changed.parameters[name].CopyFrom(parameter)
    types = {one.name: one.datatype for one in request.inputs}
    types |= {"AUDIO_START": "INT64", "AUDIO_END": "BOOL", "FRAME_COUNT": "INT32"}
    for name, values in inputs.items():
        changed.inputs.add(name=name, datatype=types[name], shape=values.shape)
        changed.raw_input_contents.append(values.tobytes())
    return changed
