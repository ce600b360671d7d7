"""The served ONNX graphs: what surrounds a network, and its INT8 form."""
