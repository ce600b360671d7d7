"""The whole product once: builds the models, starts a Triton, sends it a real person's speech, leaves demo.mp4.

python scripts/demo.py [speech] [-o demo.mp4]
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

import stages
from avatar_source import SourceError
from build import build
from serving import Ports, ServerConfig, ServerError, TritonServer

LIPSYNC = Path(sys.executable).with_name("lipsync")


def main() -> int:
    parser = argparse.ArgumentParser(description="Render a talking face with a server started for just that.")
    parser.add_argument("speech", nargs="?", type=Path, default=stages.ROOT / "samples" / "speech.wav")
    parser.add_argument("-o", "--output", type=Path, default=stages.ROOT / "demo.mp4")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave the `with` blocks, which stop the server
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        build()
        print("starting Triton", flush=True)
        with TritonServer(stages.REPOSITORY, ServerConfig(ports=Ports(0, 0, 0))) as server:
            command = [LIPSYNC, "render", options.speech, "-o", options.output, "--server", server.grpc_url]
            with subprocess.Popen(command) as render:
                try:
                    return render.wait(timeout=3600)
                except BaseException:  # also a signal to this process alone: let it remove its unfinished file
                    render.terminate()
                    render.wait(timeout=20)
                    raise
    except (ServerError, SourceError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
