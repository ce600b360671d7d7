"""Makes avatars: prepares footage, imports and trains networks, evaluates. Needs the extra `studio`."""

import lipsync_onnx  # noqa: F401 - switches off what onnxruntime and openvino report to their makers
