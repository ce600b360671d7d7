"""Parts of the benchmark: what is measured, and how it is written down."""
