"""`lipsync perf`: runs Triton's perf_analyzer with real speech."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer

from lipsync_client import wire
from lipsync_client.cli.common import Json, Server, show
from lipsync_client.connection import Endpoint
from lipsync_client.errors import LipsyncError
from lipsync_client.folders import cache_folder
from lipsync_mel import timeline
from lipsync_server import home
from lipsync_server.benchmark.analyzer import parsed

WHEEL = "tritonclient==2.51.0"  # the last one that carries the perf_analyzer of the server's own version
LIBRARIES = {"libb64": "libb64.so.0d", "libcudart": "libcudart.so.12"}  # in the server's wheel, under longer names


def installed() -> Path:
    """The folder with perf_analyzer and its libraries, set up on first use."""
    folder = cache_folder() / "perf_analyzer"
    program = folder / "perf_analyzer"
    if program.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", draft, WHEEL]
        if subprocess.run(pip, stdout=sys.stderr, timeout=600, check=False).returncode:
            raise LipsyncError(f"perf_analyzer could not be downloaded: pip found no {WHEEL}.")
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
        raise LipsyncError("perf_analyzer needs nvidia-pytriton: pip install 'lipsync-triton[server]'")
    return Path(found.origin).parent.parent / "nvidia_pytriton.libs"


def input_data(frames: int) -> dict[str, Any]:
    """One request for `frames` frames from the middle of the sample, with only the slice that they need."""
    speech = home.read_sample()
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


def perf(
    context: typer.Context,
    frames: Annotated[int, typer.Option(min=1, max=timeline.MAX_FRAMES, help="Frames in each request.")] = 25,
    model: Annotated[str, typer.Option(help="The avatar's ensemble.")] = "lipsync_ensemble",
    server: Server = wire.DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Run Triton's perf_analyzer on the pipeline with real speech. The first use downloads the program.

    Other options are passed to perf_analyzer. The server must be running. A server on another machine wants a token:
    `-H "authorization: Bearer TOKEN"`, which `ps` shows while it runs.

    Example: `lipsync perf --frames 8 --concurrency-range 1:8:1 --percentile=95`
    """
    address = _address(server)
    folder = installed()
    data = folder / f"speech-{frames}.json"
    data.write_text(json.dumps(input_data(frames)))
    command = [str(folder / "perf_analyzer"), "-m", model, "-i", "grpc", *address]
    command += ["--input-data", str(data), *context.args]
    os.environ["LD_LIBRARY_PATH"] = str(folder)
    if not as_json:
        os.execv(command[0], command)  # noqa: S606
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise LipsyncError(f"perf_analyzer failed: {done.stdout.strip()[-500:]}")
    show(parsed(done.stdout), True)


def _address(server: str) -> list[str]:
    """perf_analyzer's options for an address. Raises InvalidRequest: it is no address."""
    endpoint = Endpoint(server)
    options = ["-u", endpoint.target]
    if endpoint.secure:
        options += ["--ssl-grpc-use-ssl", "true"]
        if authorities := os.environ.get(wire.CA_FILE_VARIABLE):
            options += ["--ssl-grpc-root-certifications-file", authorities]
    return options


perf.context_settings = {"ignore_unknown_options": True, "allow_extra_args": True}  # type: ignore[attr-defined]
