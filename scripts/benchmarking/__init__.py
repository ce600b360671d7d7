"""Parts of `scripts/benchmark.py`: what is measured, and how it is written down."""
