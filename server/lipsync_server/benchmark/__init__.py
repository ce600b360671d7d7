"""Parts of the benchmark: what is measured, and how it is written down."""

PARTS = ("throughput", "streams", "perf_analyzer", "composite", "avatars")
OF_PRESETS = ("throughput", "streams", "perf_analyzer")  # parts that measure each preset
PRESETS = ("turbo", "low", "medium")  # of half width, as the demo
