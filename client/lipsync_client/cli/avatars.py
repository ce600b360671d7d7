"""`lipsync avatars`: lists a server's avatars, loads them, and puts them into its repository."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, cast

import typer

from lipsync_client import wire
from lipsync_client.avatar_file import install
from lipsync_client.avatar_file.archive import unpack_file
from lipsync_client.avatar_file.names import check_removable, folders_of
from lipsync_client.cli.common import LOAD_TIMEOUT, Headers, Json, Server, TokenFile, access, show
from lipsync_client.cli.tables import overview_table, stats_table
from lipsync_client.console import note
from lipsync_client.control.control import Control
from lipsync_client.errors import AvatarNotFound, LipsyncError, ServerUnavailable
from lipsync_client.extras import missing_extra

GONE_S = 60.0  # seconds that running requests get before an avatar's files are removed

AvatarId = Annotated[str, typer.Argument(help="The avatar's name.")]


def default_repository() -> Path:
    """The folder that `lipsync serve` serves by default; the server package returns it."""
    (point,) = entry_points(group="lipsync.repository")
    return cast(Path, point.load()())


Repository = Annotated[
    Path | None,
    typer.Option(
        envvar="LIPSYNC_REPOSITORY",
        help="The server's model repository. [default: the one of `lipsync serve`]",
    ),
]


def list_avatars(
    server: Server = wire.DEFAULT_URL,
    token_file: TokenFile = None,
    headers: Headers = None,
    as_json: Json = False,
) -> None:
    """Show every avatar in the server's repository: its state, its device, and its statistics since it was loaded.

    Example: `lipsync avatars list --json`
    """
    with Control(server, **access(token_file, headers)) as control:
        overview = control.overview()
    show(overview, as_json, overview_table(overview))


def load(
    avatar: AvatarId,
    server: Server = wire.DEFAULT_URL,
    token_file: TokenFile = None,
    headers: Headers = None,
) -> None:
    """Load an avatar, or load it again after its files have changed."""
    with Control(server, timeout=LOAD_TIMEOUT, **access(token_file, headers)) as control:
        control.load(avatar)
        note(f"Loaded {avatar}")


def unload(
    avatar: AvatarId,
    server: Server = wire.DEFAULT_URL,
    token_file: TokenFile = None,
    headers: Headers = None,
) -> None:
    """Unload an avatar. The others stay loaded."""
    with Control(server, **access(token_file, headers)) as control:
        control.unload(avatar)
        control.wait_until_gone(avatar, GONE_S)
        note(f"Unloaded {avatar}")


def stats(
    avatar: Annotated[str, typer.Argument(help="The avatar's name.")] = wire.SHIPPED_AVATAR,
    server: Server = wire.DEFAULT_URL,
    token_file: TokenFile = None,
    headers: Headers = None,
    as_json: Json = False,
) -> None:
    """Show the statistics of an avatar since it was loaded.

    Example: `lipsync avatars stats anna`
    """
    with Control(server, **access(token_file, headers)) as control:
        stats = control.stats(avatar)
    show(stats, as_json, stats_table(avatar, stats))


def add(
    source: Annotated[
        Path, typer.Argument(help="A packed avatar (`lipsync avatars pack --to`), or an avatar's source folder.")
    ],
    repository: Repository = None,
    server: Server = wire.DEFAULT_URL,
    token_file: TokenFile = None,
    headers: Headers = None,
) -> None:
    """Put an avatar into the server's repository and load it; an avatar of the same name is replaced while it serves.

    If the server cannot load the new version, or you press Ctrl-C, the repository is as before, and the earlier version
    is still served.

    Example: `lipsync avatars add anna.zip`
    """
    repository = repository or default_repository()
    with install.draft_in(repository) as draft:
        avatar = _pack(source, draft, repository) if source.is_dir() else unpack_file(source, draft)
        with Control(server, timeout=LOAD_TIMEOUT, **access(token_file, headers)) as control:
            message = _install(draft, avatar, repository, control)
        note(message)


def remove(
    avatar: AvatarId,
    repository: Repository = None,
    server: Server = wire.DEFAULT_URL,
    token_file: TokenFile = None,
    headers: Headers = None,
) -> None:
    """Unload an avatar and take it out of the server's repository. Its source folder is not touched."""
    repository = repository or default_repository()
    with Control(server, **access(token_file, headers)) as control:
        check_removable(avatar)
        if (repository / folders_of(avatar)[1]).is_dir():
            with suppress(AvatarNotFound, ServerUnavailable):
                control.unload(avatar)
                control.wait_until_gone(avatar, GONE_S)
        install.remove(avatar, repository)
        note(f"Removed {avatar}")


def _pack(source: Path, draft: Path, repository: Path) -> str:
    """Pack an avatar's source folder with the server package's packer (found by its entry point). Returns the id."""
    (packer,) = entry_points(group="lipsync.packers")
    try:
        pack_folder = packer.load()
    except ModuleNotFoundError as error:
        raise LipsyncError(
            f"{source} is a folder and must be packed first. {missing_extra(error, packer.extras)}; "
            "or add a file that `lipsync avatars pack --to` wrote."
        ) from None
    avatar: str = pack_folder(source, draft, repository)
    return avatar


def _install(draft: Path, avatar: str, repository: Path, control: Control) -> str:
    """Put a packed avatar in place and load it; returns a message. If it cannot be loaded, everything is as before."""
    try:
        served = control.ready(avatar)
    except ServerUnavailable:
        with install.installed(draft, avatar, repository):
            return f"Added {avatar}. No server answers at {control.url}, so it was not loaded."
    try:
        with install.installed(draft, avatar, repository):
            control.load(avatar)
    except AvatarNotFound:
        raise LipsyncError(
            f"The server at {control.url} does not serve from {repository}: name its folder with --repository."
        ) from None
    except BaseException:  # Ctrl-C too
        if served:  # parts of the new version may have been loaded before one failed
            with suppress(LipsyncError):
                control.load(avatar)
        raise
    return f"Replaced {avatar}" if served else f"Added {avatar}, and loaded it"
