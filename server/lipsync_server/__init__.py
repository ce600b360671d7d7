"""Who serves: starts and watches Triton, builds and packs models, measures speed. Needs the extra `server`."""

import lipsync_onnx  # noqa: F401 - switches off what onnxruntime and openvino report to their makers
