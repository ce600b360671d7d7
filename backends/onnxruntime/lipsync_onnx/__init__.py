"""Runs ONNX networks as a model's config.pbtxt asks, with the onnxruntime or the openvino wheel."""
