"""What a served stack withstands, measured on this machine; writes docs/reliability.md.

Starts a `lipsync serve` of its own for each part. Ctrl-C stops all of it. Results are kept beside the report, as JSON,
so parts can be measured at different times.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lipsync_client.console import note
from lipsync_client.extras import MissingExtra, needs
from lipsync_server.reliability import PARTS

try:
    with needs("server"):
        from lipsync_server.reliability.run import Sizes, measure
except MissingExtra as error:
    raise SystemExit(str(error)) from None


def main() -> int:
    """Returns the exit status: 1 where a bound was not kept, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m lipsync_server.reliability", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="which, in this order (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=20_000, help="malformed ones over gRPC, and as many over HTTP")
    parser.add_argument("--kills", type=int, default=1, metavar="ROUNDS", help="how often each process is killed")
    parser.add_argument("--rounds", type=int, default=5, help="of the speed, gateway and Triton in turn")
    parser.add_argument("--soak", type=float, default=60, metavar="MINUTES", help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few minutes in all: to see whether it works")
    parser.add_argument("--seed", type=int, default=1, help="of the malformed requests (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("docs/reliability.md"), help="(default: %(default)s)")
    parser.add_argument("--results", type=Path, help="the JSON (default: as --output, with .json)")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"--parts: {unknown[0]!r} is not one of {', '.join(PARTS)}")
    sizes = Sizes(options.requests, options.kills, options.rounds, options.soak, options.seed)
    if options.quick:
        sizes = Sizes.quick(options.seed)
    try:
        kept = measure(parts, sizes, options.output, options.results or options.output.with_suffix(".json"))
    except KeyboardInterrupt:
        note("Stopped.")
        return 130
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
