"""A Triton "Python-based backend": `backend: "onnxruntime"` served by the onnxruntime wheel.

For servers installed with pip alone. It reads the same config.pbtxt as NVIDIA's C++ ONNX Runtime backend, which takes
its place in their server image.
"""

import json
from pathlib import Path

import triton_python_backend_utils as pb_utils

from lipsync_onnx.batch import run_joined
from lipsync_onnx.session import open_network


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        return auto_complete_model_config  # our configs are complete

    def initialize(self, args):
        config = json.loads(args["model_config"])
        path = (
            Path(args["model_repository"]) / args["model_version"] / (config["default_model_filename"] or "model.onnx")
        )
        kind, device = args["model_instance_kind"], int(args["model_instance_device_id"])
        try:
            self.network = open_network(config, path, kind, device)
        except Exception as error:  # shown to the operator as the reason why the model is not ready
            raise pb_utils.TritonModelException(str(error)) from error
        pb_utils.Logger.log_info(f"{args['model_name']} runs on {self.network.device}")
        if kind == "GPU" and "CPU" in self.network.device:
            pb_utils.Logger.log_warn(
                f"{args['model_name']}: this onnxruntime has no CUDA (onnxruntime-gpu), the CPU serves"
            )
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.batches = config["max_batch_size"] > 0

    def execute(self, requests):
        cancelled = [request.is_cancelled() for request in requests]  # asked once: it may change meanwhile
        live = [request for request, gone in zip(requests, cancelled, strict=True) if not gone]
        answers = iter(self._run(live))
        return [self._cancelled() if gone else next(answers) for gone in cancelled]

    def _run(self, requests):
        """Responses of requests that run together (or in turn, where the model takes no batches)."""
        wanted = sorted({name for request in requests for name in request.requested_output_names()})

        def run(inputs):
            return dict(zip(wanted, self.network.run(wanted, inputs), strict=True))

        groups = [requests] if self.batches else [[request] for request in requests]
        for group in groups:
            outcomes = run_joined(run, [self._tensors(request) for request in group], self.network.pool)
            for request, outcome in zip(group, outcomes, strict=True):
                yield self._response(request, outcome)

    def _tensors(self, request):
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}

    @staticmethod
    def _response(request, outcome):
        if isinstance(outcome, Exception):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"ONNX Runtime: {outcome}"))
        names = request.requested_output_names()
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, outcome[name]) for name in names])

    @staticmethod
    def _cancelled():
        return pb_utils.InferenceResponse(error=pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED))
