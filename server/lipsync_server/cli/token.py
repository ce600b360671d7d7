"""`lipsync token`: tokens for callers of a gateway."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.cli.common import failing_clearly
from lipsync_client.console import note

__all__ = ["token"]

token = typer.Typer(
    name="token", no_args_is_help=True, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
)


@token.callback()
def tokens() -> None:
    """Make tokens for callers of a gateway on other machines."""


@token.command()
def new(
    name: Annotated[str, typer.Argument(help="Whom the token is for: letters, digits and _ . -")],
    days: Annotated[int | None, typer.Option(min=1, help="Days after which it ends. [default: never]")] = None,
    max_open: Annotated[
        int | None, typer.Option(min=1, help="Requests that may be open at once. [default: as the gateway's setting]")
    ] = None,
    live_sessions: Annotated[
        int | None, typer.Option(min=1, help="Live sessions that may talk at once. [default: no limit]")
    ] = None,
    frames_per_second: Annotated[
        float | None, typer.Option(min=0.1, help="Frames a second in the long run. [default: no limit]")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--tokens", help="The gateway's file of tokens. [default: the user's own]")
    ] = None,
) -> None:
    """Make a token: it is printed once, and only its hash is stored. Running gateways know it within a second.

    To take it back, remove its entry from the file. Example: `lipsync token new anna --days 90 > anna.token`
    """
    with failing_clearly(["server"]):
        from lipsync_server.gateway.tokens import default_file, new_token

        ends = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days) if days else None
        path = file or default_file()
        limits = {"max_open": max_open, "live_sessions": live_sessions, "frames_per_s": frames_per_second}
        typer.echo(new_token(path, name, expires=ends, **limits))
        note(f"Added {name} to {path}. The token is not stored: keep it now.")
