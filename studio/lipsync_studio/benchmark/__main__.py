"""The whole benchmark, for docs/benchmarks.md: `python -m lipsync_studio.benchmark --output docs/benchmarks.md`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from lipsync_client.extras import MissingExtra, needs

try:
    with needs("studio"):
        import onnx
        import torch

        from lipsync_server.benchmark import PARTS, PRESETS
        from lipsync_server.benchmark.packed import FULL_WIDTH
        from lipsync_server.benchmark.run import measure
        from lipsync_studio.benchmark.plot import plot_streams
        from lipsync_studio.benchmark.reference import Reference
        from lipsync_studio.export import export_unet
        from lipsync_studio.networks import UNet
except MissingExtra as error:
    raise SystemExit(str(error)) from None


def full_width(path: Path) -> None:
    """Write a network of full width with random weights: for its speed only."""
    torch.manual_seed(0)
    onnx.save(export_unet(UNet("full").eval()), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter streams")
    parser.add_argument("--presets", default=",".join((*PRESETS, *FULL_WIDTH[:1])), help="(default: %(default)s)")
    parser.add_argument("--parts", default=",".join(PARTS), help="(default: %(default)s)")
    parser.add_argument("--work", type=Path, help="folder for packed avatars and results (default: a temporary one)")
    parser.add_argument("--resume", action="store_true", help="keep the results in --work, measure what is missing")
    parser.add_argument("--gpu", choices=("cuda", "tensorrt"), help="networks in FP16 on the GPUs")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks.md"), help="(default: %(default)s)")
    options = parser.parse_args()
    if options.resume and not options.work:
        parser.error("--resume needs --work, the folder of an earlier run")
    with tempfile.TemporaryDirectory() as temporary:
        measure(
            options.work or Path(temporary),
            options.presets.split(","),
            options.parts.split(","),
            output=options.output,
            resume=options.resume,
            quick=options.quick,
            gpu=options.gpu,
            reference=Reference,
            full_width=full_width,
            plot=plot_streams,
        )


if __name__ == "__main__":
    main()
