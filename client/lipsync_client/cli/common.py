"""What all commands share: where they print, how they fail, and common options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lipsync_client.control.control import Control, find_key
from lipsync_client.errors import LipsyncError
from lipsync_client.registry.leased import leased
from lipsync_client.registry.registry import Registry
from lipsync_client.registry.settings import RegistrySettings

LOAD_TIMEOUT = 600.0  # seconds; a GPU may build its engine first

out = Console()
err = Console(stderr=True)

Server = Annotated[
    str, typer.Option("--server", envvar="LIPSYNC_SERVER", help="host:port of the server's gRPC endpoint.")
]
Config = Annotated[
    Path | None,
    typer.Option("--config", envvar="LIPSYNC_CONFIG", help="server.yaml, for how many avatars may be loaded."),
]


@contextmanager
def loaded(avatar: str, server: str, config: Path | None) -> Iterator[None]:
    """An avatar for the time of a command: loaded if it is not, where the server's control key is known."""
    settings = RegistrySettings.from_yaml(config) if config else RegistrySettings()
    with Control(server) as control:
        ready = control.ready(avatar)
    if ready or not find_key():  # without it, the first request tells what is missing
        yield
    else:
        with leased(avatar, Registry(server, settings)):
            yield


@contextmanager
def failing_clearly(extras: Sequence[str] = ()) -> Iterator[None]:
    """Turn what may go wrong into one sentence and an exit status.

    Args:
        extras: of this distribution, which the command needs.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message, status = f"This needs {error.name}: pip install 'lipsync-triton[{','.join(extras)}]'", 1
    except LipsyncError as error:  # before OSError and ValueError: some of ours are both
        message, status = str(error), 1
    except OSError as error:
        message, status = f"{error.filename or 'The output'} cannot be written ({error.strerror or error}).", 1
    except ValueError as error:
        message, status = str(error), 1
    except KeyboardInterrupt:
        message, status = "Stopped.", 130
    else:
        return
    err.print(message, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(status)
