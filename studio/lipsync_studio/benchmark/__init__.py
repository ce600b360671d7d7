"""The benchmark with what needs PyTorch: the reference way, and a network of full width."""
