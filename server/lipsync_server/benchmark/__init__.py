"""Parts of the benchmark: what is measured, and how it is written down."""

PARTS = ("throughput", "streams", "perf_analyzer", "composite", "avatars")
PRESETS = ("low", "medium")  # of half width, as the demo
