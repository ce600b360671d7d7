"""`lipsync status`: how a server is."""

from __future__ import annotations

import typer

from lipsync_client import wire
from lipsync_client.cli.common import Server, err, out
from lipsync_client.cli.tables import avatars_table, models_table
from lipsync_client.control.control import Control
from lipsync_client.control.states import avatars_in
from lipsync_client.errors import ControlDenied


def status(server: Server = wire.DEFAULT_URL) -> None:
    """Show whether the server is up, its version, its models and avatars. Fails unless it is ready."""
    with Control(server, timeout=10.0) as control:
        state = control.status()
        out.print(f"{server}: {'ready' if state.ready else 'not ready'}, Triton {state.version}", highlight=False)
        try:
            models = control.models()
        except ControlDenied as error:
            err.print(f"No list of models: {error}", highlight=False, markup=False, soft_wrap=True)
        else:
            out.print(models_table(models), avatars_table(avatars_in(models)), sep="\n")
        if not state.ready:
            raise typer.Exit(1)
