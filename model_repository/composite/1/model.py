"""Triton adapter of the composite stage. The work is in `lipsync_composite`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from lipsync_composite import mark, permit_file
from lipsync_composite.frame_request import Avatars, FrameRequestError, Patch, check_count, compose, compose_patches


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self._max_frames = int(parameters["max_frames"]["string_value"])
        folder, name = Path(args["model_repository"]), args["model_name"]
        self._avatars = Avatars.beside(folder, name, mark=mark.is_on())
        self._in_flight = permit_file.Finished(permit_file.server_file())
        cv2.setNumThreads(1)  # the pictures are too small for several threads; the networks need the cores

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        start, clock = time.monotonic_ns(), _read(request, "clock")
        try:
            return pb_utils.InferenceResponse(output_tensors=self._frames(request, clock, start))
        except FrameRequestError as error:
            return _failure(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # one request's failure must not fail the others of this call
            pb_utils.Logger.log_error(f"composite failed: {error!r}")
            return _failure(f"composite failed: {error}", pb_utils.TritonError.INTERNAL)
        finally:
            if clock is not None:
                self._release(request, clock)

    def _release(self, request: pb_utils.InferenceRequest, clock: NDArray[np.int64]) -> None:
        """Free the permit that the first stage gave to the request."""
        keys = _read(request, "avatar_key")
        avatar = 0 if keys is None or not keys.size else int(keys.flat[0])
        try:
            self._in_flight.release(int(clock[2]), int(clock[0]), avatar, time.monotonic_ns())
        except OSError as error:  # of the file; the frames are made
            pb_utils.Logger.log_error(f"composite cannot free a permit: {error}")

    def _frames(
        self, request: pb_utils.InferenceRequest, clock: NDArray[np.int64] | None, start: int
    ) -> list[pb_utils.Tensor]:
        keys, positions = _need(request, "avatar_key"), _need(request, "footage_position")
        numbers = _read(request, "frame_index")
        check_count("frame_index", numbers, len(positions))
        asked = _read(request, "patches")
        make = compose_patches if asked is not None and asked.any() else compose
        made = make(self._avatars, keys, positions, _read(request, "mouth"), self._max_frames)
        if numbers is None:
            numbers = np.arange(len(made), dtype=np.int64)
        return [
            *_pictures(made),
            pb_utils.Tensor("FRAME_INDEX", numbers),
            pb_utils.Tensor("TIMINGS_MS", _timings(clock, start, time.monotonic_ns())),
        ]


def _pictures(made: list[bytes] | list[Patch]) -> list[pb_utils.Tensor]:
    """Frames or patches; the outputs of the other kind are empty, because an ensemble must get all."""
    patches = [one for one in made if isinstance(one, Patch)]
    frames = [one for one in made if not isinstance(one, Patch)]
    return [
        pb_utils.Tensor("JPEG", np.array(frames, dtype=object)),
        pb_utils.Tensor("PATCH", np.array([patch.jpeg for patch in patches], dtype=object)),
        pb_utils.Tensor("PATCH_BOX", np.array([patch.box for patch in patches], np.int32).reshape(-1, 4)),
        pb_utils.Tensor("PATCH_KEY", np.array([patch.key for patch in patches], np.int64)),
    ]


def _read(request: pb_utils.InferenceRequest, name: str) -> NDArray[Any] | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _need(request: pb_utils.InferenceRequest, name: str) -> NDArray[Any]:
    """A required input, which Triton does not check for if a model has optional ones. Raises FrameRequestError."""
    values = _read(request, name)
    if values is None:
        raise FrameRequestError(f"{name} is missing; allowed: one for each frame")
    return values


def _timings(clock: NDArray[np.int64] | None, start: int, end: int) -> NDArray[np.float32]:
    """Durations of audio, inference, composite and all in ms; `clock` has the audio stage's begin and end in ns."""
    began, heard = (start, start) if clock is None else clock[:2].tolist()
    return (np.array([heard - began, start - heard, end - start, end - began]) / 1e6).astype(np.float32)


def _failure(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
