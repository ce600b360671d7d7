"""A packed avatar: its model folders, as a file to carry around and in a server's model repository.

An avatar X is the folders `X_lipsync` (network and footage), `X` (the ensemble that clients call) and, where it brings
its own, `X_audio_encoder`. `lipsync avatars pack` makes them. They hold data only; a packed avatar that would make
a server run code, or that names files outside its folders, is refused.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lipsync_client.avatar_file.fields import ENCODER_FIELDS, ENSEMBLE_FIELDS, NETWORK_FIELDS, fields_beyond
from lipsync_client.errors import LipsyncError
from lipsync_client.locks import locked, shared
from lipsync_client.wire import SHIPPED_AVATAR

__all__ = [
    *("PackedError", "check_id", "draft_in", "folders_of", "encoder_mismatch", "installed"),
    *("pack_file", "remove", "unpack_file"),
]

VALID_ID = re.compile(r"[a-z][a-z0-9_-]{0,47}")
NETWORK, ENCODER = "_lipsync", "_audio_encoder"
STAGES = ("mel_preprocess", "audio_encoder", "audio_encoder_int8", "composite")
SHIPPED_MODELS = ("lipsync", "lipsync_ensemble", "lipsync_visual", "lipsync_visual_ensemble")
RESERVED = {*STAGES, *SHIPPED_MODELS, SHIPPED_AVATAR}
DRAFT = ".pack-"  # folders in the making begin so; Triton lists them, and never loads them
MODEL_FILES = r"config\.pbtxt|\d{1,18}/model\.onnx"
NETWORK_FILES = (
    rf"{MODEL_FILES}|\d{{1,18}}/[0-9a-f]{{16}}\.crops"
    r"|avatar/[0-9a-f]{16}/(avatar\.json|footage\.bin|pixels\.bin|index\.npy|cuts\.npy)"
)
EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
HERE = -100  # AT_FDCWD


class PackedError(LipsyncError, ValueError):
    """A packed avatar, its id or the repository is not as it must be; the text says what is wrong."""


def check_id(avatar: str) -> None:
    """Raises PackedError for an id that is no safe folder name, or taken by the product."""
    if not VALID_ID.fullmatch(avatar) or avatar in RESERVED or avatar.endswith((NETWORK, ENCODER)):
        raise PackedError(
            f"id {avatar!r} cannot be used: 1 to 48 of a-z, 0-9, _ and -, starting with a letter, not ending in "
            f"{NETWORK} or {ENCODER}, and none of {', '.join(sorted(RESERVED))}"
        )


def folders_of(avatar: str) -> tuple[str, str, str]:
    """The avatar's folders in the order in which they must be there: its own encoder, network, ensemble."""
    return f"{avatar}{ENCODER}", f"{avatar}{NETWORK}", avatar


def pack_file(draft: Path, file: Path) -> None:
    """Write the avatar in the folder `draft` as one file; it appears complete or not at all."""
    part = file.with_name(f".{file.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for path in sorted(draft.rglob("*")):
                archive.write(path, path.relative_to(draft))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def unpack_file(file: Path, draft: Path) -> str:
    """Unpack a file of `pack_file` into an empty folder, and check it. Returns the avatar's id. Raises PackedError."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            avatar = _id_among(file, {name.partition("/")[0] for name in names})
            for name in names:
                if not _is_allowed(avatar, name):
                    raise PackedError(f"{file} holds {name!r}, which is no part of a packed avatar.")
            archive.extractall(draft, names)
    except FileNotFoundError:
        raise PackedError(f"There is no file {file}.") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise PackedError(f"{file} is not a packed avatar, as `lipsync avatars pack` writes it ({error}).") from None
    (draft / avatar / "1").mkdir(parents=True, exist_ok=True)  # Triton wants a version folder of an ensemble too
    _check_configs(file, draft, avatar)
    return avatar


@contextmanager
def draft_in(repository: Path) -> Iterator[Path]:
    """An empty folder in a model repository, gone in the end; those of processes that were killed go too.

    Raises:
        PackedError: that is no model repository.
    """
    if not (repository / "composite" / "config.pbtxt").is_file():
        raise PackedError(
            f"{repository} is not the server's model repository (it has no composite/config.pbtxt): "
            "name that folder with --repository."
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
    """Put the avatar in the folder `draft` (`draft_in`) into its repository, in place of an earlier one of its id.

    Each folder is exchanged in one step, so that nobody ever sees half of one. If the block fails, the earlier version
    is back afterwards. The new network folder also carries the footage of the version that it replaces, which a
    running server shows until it loads the new one.

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
    """A sentence, if the avatar in `folder` shares the repository's audio encoder but was packed for another one."""
    encoder, network, _ = folders_of(avatar)
    here = _fact(repository / SHIPPED_MODELS[0], "audio_encoder")
    if not here or (folder / encoder).exists() or _fact(folder / network, "audio_encoder") == here:
        return ""
    return (
        f"{avatar} was packed for another audio encoder than that of {repository}: "
        "pack it again from its source folder (`lipsync avatars pack`)"
    )


def remove(avatar: str, repository: Path) -> None:
    """Take an avatar out of a repository; a server must have unloaded it. Raises PackedError if it is not there."""
    check_id(avatar)
    with draft_in(repository) as draft, locked(repository / ".avatars.lock"):
        if not any((repository / name).exists() for name in folders_of(avatar)):
            raise PackedError(f"There is no avatar {avatar!r} in {repository}.")
        _exchange_all(draft, avatar, repository)


def _id_among(file: Path, folders: set[str]) -> str:
    ids = [name.removesuffix(NETWORK) for name in folders if name.endswith(NETWORK)]
    if len(ids) != 1 or not folders <= set(folders_of(ids[0])):
        raise PackedError(f"{file} is not a packed avatar: it holds {', '.join(sorted(folders)) or 'nothing'}.")
    check_id(ids[0])
    return ids[0]


def _is_allowed(avatar: str, name: str) -> bool:
    encoder, network, ensemble = map(re.escape, folders_of(avatar))
    allowed = rf"{network}/({NETWORK_FILES})|{encoder}/({MODEL_FILES})|{ensemble}/config\.pbtxt"
    return re.fullmatch(allowed, name) is not None


def _check_configs(file: Path, draft: Path, avatar: str) -> None:
    """A config names the network runtime and the known stages, in the templates' fields: others could run code."""
    encoder, network, ensemble = folders_of(avatar)
    allowed = {network: NETWORK_FIELDS, ensemble: ENSEMBLE_FIELDS, encoder: ENCODER_FIELDS}
    for name in (network, ensemble, *([encoder] if (draft / encoder).exists() else [])):
        path = draft / name / "config.pbtxt"
        try:
            config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            raise PackedError(f"{file}: {name}/config.pbtxt cannot be read ({error}).") from None
        is_ensemble = name == ensemble
        steps = {step.model_name for step in config.ensemble_scheduling.step}
        if strange := fields_beyond(allowed[name], config):
            raise PackedError(f"{file}: {name}/config.pbtxt holds {strange[0]!r}, which is no part of a packed avatar.")
        if (
            config.name != name
            or (config.backend, config.platform) != (("", "ensemble") if is_ensemble else ("onnxruntime", ""))
            or not steps <= ({*STAGES, network, encoder} if is_ensemble else set())
        ):
            raise PackedError(f"{file}: {name}/config.pbtxt is not that of a packed avatar; pack it again.")


def _fact(network: Path, name: str) -> str:
    """What the config of a network's folder states under a name; "" if nothing."""
    try:
        config = text_format.Parse((network / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    except (OSError, ValueError, text_format.ParseError):
        return ""
    return str(config.parameters[name].string_value)


def _carry_footage(old: Path, new: Path) -> None:
    """Add the old version's footage to the new version's folder, as hard links where the disk allows."""
    try:
        key = f"{int(_fact(old, 'avatar_key')):016x}"
    except ValueError:
        return  # there is no old version, or nothing could serve it
    if (old / "avatar" / key).is_dir() and not (new / "avatar" / key).exists():
        shutil.copytree(old / "avatar" / key, new / "avatar" / key, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _exchange_all(draft: Path, avatar: str, repository: Path) -> None:
    """What the repository has of the avatar goes into the draft, and what the draft has into the repository."""
    for name in folders_of(avatar):
        mine, theirs = draft / name, repository / name
        if mine.exists() and theirs.exists():
            _exchange(mine, theirs)
        elif mine.exists():
            mine.rename(theirs)
        elif theirs.exists():
            theirs.rename(mine)
        for version in theirs.glob("[0-9]*"):
            os.utime(version)  # Triton loads again what is newer than before, and an earlier version is not


def _exchange(one: Path, other: Path) -> None:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename and rename(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0:
        return
    aside = one.with_name(f"{one.name}.old")  # file systems that know no exchange: for a moment there is no folder
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
