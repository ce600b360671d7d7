"""The benchmark with what the extra studio brings: the reference way, a network of full width, and the plot."""
