"""Parts of the benchmark: what is measured, and how it is written down."""

PARTS = ("throughput", "streams", "perf_analyzer", "composite", "avatars")
QUICK = "quick"  # the part that takes the place of all others: a short look
OF_PRESETS = (QUICK, "throughput", "streams", "perf_analyzer")  # parts that measure each preset
PRESETS = ("turbo", "low", "medium")  # of half width, as the demo
