"""The command `lipsync`. It finds its commands by entry points, so each installed package can add some."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import sys
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from lipsync_client import wire
from lipsync_client.cli.avatars import list_avatars
from lipsync_client.cli.common import Headers, Json, Server, TokenFile, failing_clearly, problems
from lipsync_client.console import notes
from lipsync_client.extras import missing_extra

COMMANDS = "lipsync.commands"
ORDER = (  # in the help: first what a new user needs; other commands follow by name
    *("demo", "serve", "render", "frames", "say", "web", "status", "avatars", "gateway", "token"),
    *("bench", "perf", "build", "gpu-models"),
    *("list", "load", "unload", "stats", "add", "remove", "prepare", "train", "import", "evaluate", "pack"),
)
# A package that only this extra installs, or others that include it.
EXTRAS = {"server": "onnxruntime", "gateway": "prometheus_client", "studio": "torch", "web": "websockets"}
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
HELP = """Talking faces from speech, by a lip-sync server.

- `lipsync demo` starts a server, renders the sample speech and writes demo.mp4
- `lipsync serve` runs a server until Ctrl-C; then, in a second terminal:
- `lipsync render speech.wav -o talk.mp4` makes a video
- `lipsync web` serves a page with a talking face

Exit status: 0 done, 1 failed (one sentence says why), 2 wrong usage, 130 stopped with Ctrl-C."""


class EntryPointGroup(typer.core.TyperGroup):
    """A command whose subcommands are the entry points of a group. Each is imported on its first use."""

    entry_point_group = COMMANDS

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(_found(self.entry_point_group), key=lambda name: (_place(name), name))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = _found(self.entry_point_group).get(cmd_name)
        return _command(cmd_name, found) if found else None


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _found(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def _command(name: str, point: EntryPoint) -> Any:
    """The Typer command of an entry point. If its extra is not installed, a command that says so."""
    try:
        target: Any = point.load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("lipsync_"):
            raise  # a fault of ours, not of the installation
        return _missing(name, point, error)
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    settings = {**HELP_OPTIONS, **getattr(target, "context_settings", {})}
    app.command(name, context_settings=settings, short_help=_short_help(target, point))(
        failing_clearly(point.extras)(target)
    )
    return typer.main.get_command(app)


def _short_help(target: Any, point: EntryPoint) -> str:
    """The first paragraph of a command's help, after the name of the extra that is missing, if any."""
    missing = [extra for extra in point.extras if importlib.util.find_spec(EXTRAS[extra]) is None]
    text = " ".join((target.__doc__ or "").partition("\n\n")[0].split())
    return f"(needs the extra {', '.join(missing)}) {text}" if missing else text


def _missing(name: str, point: EntryPoint, error: ModuleNotFoundError) -> Any:
    app = typer.Typer(add_completion=False)

    @app.command(
        name,
        short_help=f"(needs the extra {','.join(point.extras)})",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    )
    def refuse() -> None:
        problems.print(missing_extra(error, point.extras), highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1)

    return typer.main.get_command(app)


class AvatarsGroup(EntryPointGroup):
    """`lipsync avatars`."""

    entry_point_group = f"{COMMANDS}.avatars"


avatars = typer.Typer(
    name="avatars", cls=AvatarsGroup, rich_markup_mode="markdown", add_completion=False, context_settings=HELP_OPTIONS
)


@avatars.callback(invoke_without_command=True)
def show_avatars(
    context: typer.Context,
    server: Server = wire.DEFAULT_URL,
    token_file: TokenFile = None,
    headers: Headers = None,
    as_json: Json = False,
) -> None:
    """Show, make, add, remove, load, unload and measure avatars. Without a subcommand: the same as `list`."""
    if context.invoked_subcommand is None:
        with failing_clearly():
            list_avatars(server, token_file, headers, as_json)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lipsync {version('lipsync-triton')}")
        raise typer.Exit


app = typer.Typer(
    cls=EntryPointGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help=HELP,
    pretty_exceptions_show_locals=False,  # they may be a token or a key
    context_settings=HELP_OPTIONS,
)


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only results and errors, no progress and no notes.")
    ] = False,
    home: Annotated[
        Path | None,
        typer.Option(
            envvar="LIPSYNC_HOME", help="Folder that holds model_repository. [default: the checkout or the user's data]"
        ),
    ] = None,
) -> None:
    """Talking faces from speech, by a lip-sync server."""
    notes.quiet = quiet
    if home:
        os.environ["LIPSYNC_HOME"] = str(home.absolute())


def main() -> None:
    # SIGTERM raises an exception, so that incomplete files are removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale that lacks a character costs only that character
    try:
        app()
    except RuntimeError:
        if _has_home():
            raise
        problems.print("This user has no home folder: set HOME.", highlight=False, markup=False)
        sys.exit(1)


def _has_home() -> bool:
    try:
        return Path.home().is_absolute()
    except RuntimeError:
        return False


if __name__ == "__main__":
    main()
