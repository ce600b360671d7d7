"""Triton adapter of the first stage: turns speech into the encoder's mel windows. The work is in `lipsync_mel`."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from lipsync_mel import in_flight, mel, permit_file, speech_request, timeline


def _array(request: pb_utils.InferenceRequest, name: str) -> NDArray[Any] | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _scalar(request: pb_utils.InferenceRequest, name: str) -> Any:
    values = _array(request, name)
    return None if values is None else values.reshape(-1)[0].item()


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        published = json.loads(args["model_config"]).get("parameters", {})
        stated = {name: value["string_value"] for name, value in published.items()}
        for name, value in timeline.PUBLISHED.items():
            if stated.get(name) != str(value):
                raise pb_utils.TritonModelException(
                    f"config.pbtxt states {name} = {stated.get(name)}, timeline.py has {value}: they must agree"
                )
        permit_file.sweep()
        self.permits = in_flight.Permits(permit_file.server_file(), int(stated["max_in_flight"]))
        self.filterbank = mel.load_filterbank()

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        """The response to one request. An error affects only this request."""
        try:
            return self._windows(request)
        except ValueError as error:
            return _failure(str(error), pb_utils.TritonError.INVALID_ARG)
        except in_flight.Full as error:
            return _failure(str(error), pb_utils.TritonError.UNAVAILABLE)
        except Exception as error:
            pb_utils.Logger.log_error(f"mel_preprocess failed: {error!r}")
            return _failure(f"mel_preprocess failed: {error}", pb_utils.TritonError.INTERNAL)

    def _windows(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        begin = time.monotonic_ns()
        asked = set(request.requested_output_names())
        visual = None
        if "visual_position" in asked:  # only lipsync_visual_ensemble asks for it
            pictures = _array(request, "VISUAL_FRAMES")
            visual = 0 if pictures is None else len(pictures)
        wanted = speech_request.parse(
            audio=_array(request, "AUDIO"),
            audio_start=_scalar(request, "AUDIO_START"),
            audio_end=_scalar(request, "AUDIO_END"),
            first_frame=_scalar(request, "FIRST_FRAME"),
            frame_count=_scalar(request, "FRAME_COUNT"),
            footage_start=_scalar(request, "FOOTAGE_START"),
            visual_count=visual,
        )
        # Composite frees the permit when it gets the clock. Without the clock, or with both positions, it is no
        # ensemble's request and does not go on to composite.
        goes_on = "clock" in asked and len(asked & {"footage_position", "visual_position"}) == 1
        permit = self.permits.acquire(begin) if goes_on else permit_file.NONE
        try:
            outputs = self._outputs(wanted, begin, permit)
        except Exception:
            self.permits.give_back(permit, begin)
            raise
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])

    def _outputs(self, wanted: speech_request.SpeechRequest, begin: int, permit: int) -> dict[str, NDArray[Any]]:
        starts, inside = timeline.row_windows(wanted.first_frame, wanted.frame_count, wanted.samples)
        windows = mel.encoder_windows(self.filterbank, wanted.audio, wanted.audio_start, wanted.samples, starts, inside)
        frames = np.arange(wanted.frame_count, dtype=np.int64)
        position = (wanted.footage_start + frames)[:, None]
        return {
            "mel_windows": windows,
            "window_mask": inside.astype(np.float32)[:, None],
            "footage_position": position,
            "visual_position": position,
            "FRAME_INDEX": wanted.first_frame + frames,
            "clock": np.array([begin, time.monotonic_ns(), permit], np.int64),
        }


def _failure(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
