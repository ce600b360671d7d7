"""`lipsync demo`: runs the whole product once."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.cli.render import render
from lipsync_client.console import note
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
    check_installed()
    build()
    note("starting Triton")
    with TritonServer(home.repository(), ServerConfig(ports=Ports(0, 0, 0))) as server:
        render(speech, output, server=server.grpc_url)
