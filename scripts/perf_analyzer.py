"""Runs Triton's perf_analyzer on the pipeline with real speech; all it needs is set up on first use.

    python scripts/perf_analyzer.py                                   # 25 frames a request, one caller
    python scripts/perf_analyzer.py --frames 8 --concurrency-range 1:8:1 --percentile=95

Options that this script does not know go to perf_analyzer (`--help` shows its own). The server must be running.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import stages
import timeline
from serving.environment import cache_folder

WHEEL = "tritonclient==2.51.0"  # the last one that carries the perf_analyzer of the server's own version
LIBRARIES = {"libb64": "libb64.so.0d", "libcudart": "libcudart.so.12"}  # in the server's wheel, under longer names


def installed() -> Path:
    """The folder with perf_analyzer and its libraries, filled on first use."""
    folder = cache_folder() / "perf_analyzer"
    program = folder / "perf_analyzer"
    if program.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", draft, WHEEL]
        subprocess.run(pip, check=True, timeout=600)
        (wheel,) = Path(draft).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith("bin/perf_analyzer"))
            archive.extract(member, draft)
        (Path(draft) / member).chmod(0o755)
        for start, name in LIBRARIES.items():
            (library,) = _server_libraries().glob(f"{start}-*")
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(library)
        (Path(draft) / member).replace(program)
    return folder


def _server_libraries() -> Path:
    found = importlib.util.find_spec("pytriton")
    if found is None or found.origin is None:
        raise SystemExit("perf_analyzer: nvidia-pytriton is not installed: `make setup`")
    return Path(found.origin).parent.parent / "nvidia_pytriton.libs"


def input_data(frames: int) -> dict:
    """One request for `frames` frames from the middle of the sample, carrying just the slice that they need."""
    speech = stages.read_sample()
    first = 60
    start, stop = timeline.samples_needed(first, frames)
    request = {
        "AUDIO": {"content": speech[start:stop].tolist(), "shape": [stop - start]},
        "AUDIO_START": [start],
        "AUDIO_END": [False],
        "FIRST_FRAME": [first],
        "FRAME_COUNT": [frames],
    }
    return {"data": [request]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=25, help="frames in each request, 1 to 32 (default: %(default)s)")
    parser.add_argument("--model", default="lipsync_ensemble", help="(default: %(default)s)")
    parser.add_argument("--server", default="127.0.0.1:8001", help="gRPC address (default: %(default)s)")
    options, rest = parser.parse_known_args()
    if not 1 <= options.frames <= timeline.MAX_FRAMES:
        parser.error(f"--frames is {options.frames}: it must be from 1 to {timeline.MAX_FRAMES}")
    folder = installed()
    data = folder / f"speech-{options.frames}.json"
    data.write_text(json.dumps(input_data(options.frames)))
    command = [str(folder / "perf_analyzer"), "-m", options.model, "-i", "grpc", "-u", options.server]
    os.environ["LD_LIBRARY_PATH"] = str(folder)
    os.execv(command[0], [*command, "--input-data", str(data), *rest])


if __name__ == "__main__":
    main()
