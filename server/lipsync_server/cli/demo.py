"""`lipsync demo`: runs the whole product once."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.cli.render import render
from lipsync_client.console import note
from lipsync_client.errors import AudioError
from lipsync_client.media.audio import read_audio
from lipsync_client.media.input_file import STANDARD_INPUT
from lipsync_client.media.video import video_file
from lipsync_server import home
from lipsync_server.serving import Ports, ServerConfig, TritonServer
from lipsync_server.serving.environment import check_installed


def demo(
    speech: Annotated[
        Path, typer.Argument(help="An audio or video file. [default: the speech sample]", show_default=False)
    ] = home.SAMPLE,
    output: Annotated[Path, typer.Option("--output", "-o", help="The MP4 file to write.")] = Path("demo.mp4"),
) -> None:
    """Build the models, start a server, render a talking face, and stop the server. Writes demo.mp4."""
    from lipsync_server.repository.build import build

    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell ignores it for background programs
    video_file(output)  # what cannot be written or read is said before the models are built
    if speech.is_file():
        read_audio(speech)
    elif speech.is_dir():
        raise AudioError(f"{speech} is a folder")
    elif str(speech) != STANDARD_INPUT and not speech.exists():
        raise AudioError(f"there is no file {speech}")
    check_installed()
    build()
    note("starting Triton")
    with TritonServer(home.repository(), ServerConfig(ports=Ports(0, 0, 0))) as server:
        render(speech, output, server=server.grpc_url)
    lipsync = _this_command()
    note(
        f"Next: look at {output}. Then start a server with `{lipsync} serve` and, in a second terminal, talk to the "
        f"face with `{lipsync} web`, or make a video of your own speech with "
        f"`{lipsync} render speech.wav -o talk.mp4`. Your own face: docs/your-avatar.md"
    )


def _this_command() -> str:
    """How this command is typed here: by its name, if the shell finds it under it."""
    program = Path(sys.argv[0])
    found = shutil.which("lipsync")
    if program.name != "lipsync" or (found and Path(found).samefile(program)):
        return "lipsync"
    return os.path.relpath(program)
