"""Puts packed avatars into a server's model repository and removes them, each folder in one step."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lipsync_client.avatar_file.names import NETWORK, SHIPPED_MODELS, PackedError, check_id, check_removable, folders_of
from lipsync_client.locks import locked, shared

__all__ = ["draft_in", "encoder_mismatch", "installed", "remove"]

DRAFT = ".pack-"  # prefix of incomplete folders; Triton lists them but never loads them
EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
HERE = -100  # AT_FDCWD


@contextmanager
def draft_in(repository: Path) -> Iterator[Path]:
    """An empty folder in a model repository, removed at the end. Leftovers of killed processes are removed too.

    Raises:
        PackedError: the folder is not a model repository.
    """
    if not (repository / "composite" / "config.pbtxt").is_file():
        raise PackedError(
            f"{repository} is not the server's model repository (it has no composite/config.pbtxt): "
            "give that folder with --repository."
        )

    def sweep() -> None:
        for left in repository.glob(f"{DRAFT}*"):
            shutil.rmtree(left, ignore_errors=True)

    with (
        shared(repository / ".drafts.lock", when_alone=sweep),
        tempfile.TemporaryDirectory(prefix=DRAFT, dir=repository) as draft,
    ):
        yield Path(draft)


@contextmanager
def installed(draft: Path, avatar: str, repository: Path) -> Iterator[None]:
    """Put the avatar in the folder `draft` (`draft_in`) into its repository, in place of an earlier version.

    Each folder is exchanged in one step, so no process ever sees half of one. If the block fails, the earlier version
    is put back. The new network folder also contains the footage of the earlier version, because a running server uses
    it until it loads the new one.

    Raises:
        PackedError: its id cannot be used, or it was packed for another audio encoder than the repository's.
    """
    check_id(avatar)
    if message := encoder_mismatch(draft, avatar, repository):
        raise PackedError(message)
    with locked(repository / ".avatars.lock"):
        _carry_footage(repository / f"{avatar}{NETWORK}", draft / f"{avatar}{NETWORK}")
        _exchange_all(draft, avatar, repository)
        try:
            yield
        except BaseException:
            _exchange_all(draft, avatar, repository)
            raise


def encoder_mismatch(folder: Path, avatar: str, repository: Path) -> str:
    """A sentence if the avatar in `folder` shares the audio encoder but was packed for another one, else ""."""
    encoder, network, _ = folders_of(avatar)
    here = _fact(repository / SHIPPED_MODELS[0], "audio_encoder")
    if not here or (folder / encoder).exists() or _fact(folder / network, "audio_encoder") == here:
        return ""
    return (
        f"{avatar} was packed for another audio encoder than that of {repository}: "
        "pack it again from its source folder (`lipsync avatars pack`)"
    )


def remove(avatar: str, repository: Path) -> None:
    """Remove an avatar from a repository. A server must have unloaded it. Raises PackedError if it is not there."""
    check_removable(avatar)
    with draft_in(repository) as draft, locked(repository / ".avatars.lock"):
        if not any((repository / name).exists() for name in folders_of(avatar)):
            raise PackedError(f"There is no avatar {avatar!r} in {repository}.")
        _exchange_all(draft, avatar, repository)


def _fact(network: Path, name: str) -> str:
    """The value of a parameter in the config of a network's folder; "" if there is none."""
    try:
        config = text_format.Parse((network / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    except (OSError, ValueError, text_format.ParseError):
        return ""
    return str(config.parameters[name].string_value)


def _carry_footage(old: Path, new: Path) -> None:
    """Add the old version's footage to the new version's folder, as hard links where the file system allows them."""
    try:
        key = f"{int(_fact(old, 'avatar_key')):016x}"
    except ValueError:
        return  # there is no old version, or none that could be served
    if (old / "avatar" / key).is_dir() and not (new / "avatar" / key).exists():
        shutil.copytree(old / "avatar" / key, new / "avatar" / key, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _exchange_all(draft: Path, avatar: str, repository: Path) -> None:
    """Exchange the avatar's folders in the draft with those in the repository."""
    for name in folders_of(avatar):
        mine, theirs = draft / name, repository / name
        if mine.exists() and theirs.exists():
            exchange_folders(mine, theirs)
        elif mine.exists():
            mine.rename(theirs)
        elif theirs.exists():
            theirs.rename(mine)
        for version in theirs.glob("[0-9]*"):
            os.utime(version)  # Triton reloads only what is newer; an earlier version is not


def exchange_folders(one: Path, other: Path) -> None:
    """Exchange the names of two folders, in one step if the file system supports it."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename and rename(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0:
        return
    aside = one.with_name(f"{one.name}.old")  # file systems without the exchange: for a moment there is no folder
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
