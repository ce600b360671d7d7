"""Runs ONNX networks as a model's config.pbtxt asks, with the onnxruntime or the openvino wheel.

Importing this package, which the server's packages do first, switches off what these wheels report to their makers:
ONNX Runtime's sessions to Microsoft, OpenVINO's import to Google Analytics, each with an identifier that they leave in
the user's home.
"""

import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# OpenVINO's only switch is a file in the home. Without the package that reports, it uses a stub of its own.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: importing it fails
