"""A Triton "Python-based backend": `backend: "onnxruntime"` served by the onnxruntime wheel.

For servers installed with pip alone. It reads the same config.pbtxt as NVIDIA's C++ ONNX Runtime backend, which takes
its place in their server image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from lipsync_onnx.batch import Run, Tensors, run_joined
from lipsync_onnx.engines import open_fastest
from lipsync_onnx.rows import Rows, RowsError


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        return auto_complete_model_config  # our configs are complete

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        path = (
            Path(args["model_repository"]) / args["model_version"] / (config["default_model_filename"] or "model.onnx")
        )
        kind, device = args["model_instance_kind"], int(args["model_instance_device_id"])
        try:
            self.rows = Rows.of(config)
            self.network = open_fastest(config, path, kind, device)
        except Exception as error:  # shown to the operator as the reason why the model is not ready
            raise pb_utils.TritonModelException(str(error)) from error
        pb_utils.Logger.log_info(f"{args['model_name']} runs on {self.network.device}")
        if self.network.trial:
            pb_utils.Logger.log_info(f"{args['model_name']}: {self.network.trial}")
        if kind == "GPU" and "CPU" in self.network.device:
            pb_utils.Logger.log_warn(
                f"{args['model_name']}: this onnxruntime has no CUDA (onnxruntime-gpu), the CPU serves"
            )
        self.batches = config["max_batch_size"] > 0

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        cancelled = [request.is_cancelled() for request in requests]  # asked once: it may change meanwhile
        live = [request for request, gone in zip(requests, cancelled, strict=True) if not gone]
        answers = iter(self._run(live))
        return [_failure("cancelled", pb_utils.TritonError.CANCELLED) if gone else next(answers) for gone in cancelled]

    def _run(self, requests: list[pb_utils.InferenceRequest]) -> Iterator[pb_utils.InferenceResponse]:
        """Yield the responses of requests, run as one batch or, if the model takes none, one after the other."""
        wanted = sorted({name for request in requests for name in request.requested_output_names()})

        def run(inputs: Tensors) -> Tensors:
            return dict(zip(wanted, self.network.run(wanted, inputs), strict=True))

        groups = [requests] if self.batches else [[request] for request in requests]
        for group in groups:
            for request, outcome in zip(group, self._outcomes(run, group), strict=True):
                yield self._response(request, outcome)

    def _outcomes(self, run: Run, requests: Sequence[pb_utils.InferenceRequest]) -> Iterator[Tensors | Exception]:
        """Each request's outputs or its own failure, in order; the sound ones run together."""
        checked = [self._checked(request) for request in requests]
        sound = [tensors for tensors in checked if not isinstance(tensors, RowsError)]
        outcomes = run_joined(run, sound, self.network.pool)
        for tensors in checked:
            yield tensors if isinstance(tensors, RowsError) else next(outcomes)

    def _checked(self, request: pb_utils.InferenceRequest) -> Tensors | RowsError:
        found = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self.rows.inputs}
        tensors = {name: tensor.as_numpy() for name, tensor in found.items() if tensor is not None}
        try:
            self.rows.check(tensors)
        except RowsError as error:
            return error
        return tensors

    @staticmethod
    def _response(request: pb_utils.InferenceRequest, outcome: Tensors | Exception) -> pb_utils.InferenceResponse:
        if isinstance(outcome, RowsError):
            return _failure(str(outcome), pb_utils.TritonError.INVALID_ARG)
        if isinstance(outcome, Exception):
            return _failure(f"ONNX Runtime: {outcome}", pb_utils.TritonError.INTERNAL)
        names = request.requested_output_names()
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, outcome[name]) for name in names])


def _failure(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
