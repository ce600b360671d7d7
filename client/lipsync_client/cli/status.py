"""`lipsync status`: the state of a server."""

from __future__ import annotations

import typer
from rich.text import Text

from lipsync_client import wire
from lipsync_client.cli.common import Headers, Json, Server, TokenFile, access, show
from lipsync_client.cli.gateway_tables import gateway_line, gateway_tables
from lipsync_client.cli.tables import avatars_table, models_table
from lipsync_client.console import note
from lipsync_client.control.control import Control
from lipsync_client.control.states import ModelState, avatars_in
from lipsync_client.errors import ControlDenied, ServerUnavailable


def status(
    server: Server = wire.DEFAULT_URL,
    token_file: TokenFile = None,
    headers: Headers = None,
    as_json: Json = False,
) -> None:
    """Show whether the server is ready, its version, its models and avatars. The exit status is 1 unless it is ready.

    A gateway also tells which servers are behind it and whether they make frames, which programs were started again and
    why, and which GPUs there are.

    Example: `lipsync status --server 127.0.0.1:8001`
    """
    with Control(server, timeout=10.0, **access(token_file, headers)) as control:
        state = control.status()
        gateway = control.gateway()
        models: list[ModelState] | None = None
        try:
            models = control.models()
        except (ControlDenied, ServerUnavailable) as error:
            note(f"No list of models: {error}")
    avatars = None if models is None else avatars_in(models)
    line = Text(f"{server}: {f'ready, Triton {state.version}' if state.ready else 'not ready'}")
    if state.ready and avatars and not any(one.loaded for one in avatars):
        line.append("; no avatar is loaded")
        note(f"To load one: lipsync avatars load {avatars[0].id}")
    tables = []
    if gateway:
        line.append(f"; {gateway_line(gateway)}")
        tables += gateway_tables(gateway)
    if models is not None:
        tables.append(models_table(models))
    if avatars is not None and not (gateway and gateway["avatars"]):
        tables.append(avatars_table(avatars))
    shown = {"server": server, "status": state, "gateway": gateway, "models": models, "avatars": avatars}
    show(shown, as_json, line, *tables)
    if not state.ready:
        raise typer.Exit(1)
