"""Shared by all commands: output, errors and common options."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypedDict

import typer
from rich.console import Console

from lipsync_client.errors import LipsyncError
from lipsync_client.extras import MissingExtra, missing_extra

LOAD_TIMEOUT = 600.0  # seconds; on a GPU, an engine may be built first

out = Console()  # results
problems = Console(stderr=True)  # why something failed; `--quiet` does not silence it

Server = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="LIPSYNC_SERVER",
        help="The server's gRPC endpoint: host:port, or grpcs://host:port with TLS.",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help="A file with the bearer token that the server wants. [default: the token in LIPSYNC_TOKEN]",
        show_default=False,
    ),
]
Headers = Annotated[
    list[str] | None,
    typer.Option("--header", help='A header for every request, as "name: value"; `ps` shows it. May be repeated.'),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


class Access(TypedDict):
    """What `Client`, `AsyncClient`, `Control` and `Registry` take besides an address."""

    token: str | None
    headers: dict[str, str]


def access(token_file: Path | None, headers: Sequence[str] | None) -> Access:
    """The token and the headers of a command. No option takes the token itself: `ps` shows options to everybody.

    Raises:
        LipsyncError: the file cannot be read or holds no token, or a header has no name.
    """
    token = os.environ.get("LIPSYNC_TOKEN") or None
    if token_file:
        try:
            token = token_file.read_text(encoding="ascii").strip()
        except OSError as error:
            raise LipsyncError(f"The token file {token_file} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            token = ""
        if not token:
            raise LipsyncError(f"The token file {token_file} holds no token: it must be one line of ASCII characters.")
    pairs = [header.partition(":") for header in headers or ()]
    if not all(separator for _, separator, _ in pairs):
        raise LipsyncError('A --header must be "name: value".')
    return {"token": token, "headers": {name.strip(): value.strip() for name, _, value in pairs}}


def show(data: Any, as_json: bool, *renderables: Any) -> None:
    """Print a result on standard output.

    Args:
        data: plain values; dataclasses and named tuples among them become objects.
        as_json: print `data` as one JSON document; otherwise `renderables` are printed.
        renderables: the same result for people, as rich prints it.
    """
    if as_json:
        print(json.dumps(_plain(data), indent=2), flush=True)  # in ASCII, which every locale can print
    else:
        out.print(*renderables, sep="\n")


def _plain(value: Any) -> Any:
    """The value as plain JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value.isoformat() if isinstance(value, datetime) else value


@contextmanager
def failing_clearly(extras: Sequence[str] = ()) -> Iterator[None]:
    """Turn an error into one sentence and an exit status.

    Args:
        extras: the extras of this distribution that the command needs.
    """
    try:
        yield
    except MissingExtra as error:
        message, status = str(error), 1
    except ModuleNotFoundError as error:
        if not extras or (error.name or "").startswith("lipsync_"):
            raise  # a fault of ours, not of the installation
        message, status = missing_extra(error, extras), 1
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
    problems.print(message, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(status)
