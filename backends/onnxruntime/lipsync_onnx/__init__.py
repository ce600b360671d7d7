"""Runs ONNX networks as a model's config.pbtxt asks, with the onnxruntime or the openvino wheel.

Importing this package switches off the telemetry of both wheels; the server's packages import it first. Otherwise ONNX
Runtime's sessions report to Microsoft, and OpenVINO's import reports to Google Analytics, each with an identifier in
the user's home.
"""

import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# OpenVINO's only switch is a file in the home. Without its telemetry package, it uses a stub of its own.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: importing it fails
