"""A packed avatar as one file.

The file holds data only. A file that would make a server run code, or that names files outside the avatar's folders, is
refused.
"""

from __future__ import annotations

import errno
import re
import struct
import zipfile
import zlib
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lipsync_client.avatar_file.fields import ENCODER_FIELDS, ENSEMBLE_FIELDS, NETWORK_FIELDS, fields_beyond
from lipsync_client.avatar_file.limits import check_entries, excess
from lipsync_client.avatar_file.names import NETWORK, STAGES, PackedError, check_id, folders_of
from lipsync_client.avatar_file.network_files import external_trouble
from lipsync_client.output_file import output_file

__all__ = ["pack_file", "unpack_file"]

# What zipfile raises for files that were damaged or made to harm; the last ones are not documented.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)
MODEL_FILES = r"config\.pbtxt|\d{1,18}/model\.onnx"
NETWORK_FILES = (
    rf"{MODEL_FILES}|\d{{1,18}}/(whole\.onnx|[0-9a-f]{{16}}\.crops)"
    r"|avatar/[0-9a-f]{16}/(avatar\.json|footage\.bin|pixels\.bin|index\.npy|cuts\.npy)"
)


def pack_file(draft: Path, file: Path) -> None:
    """Write the avatar in the folder `draft` as one file. The file appears complete or not at all.

    Raises:
        LipsyncError: `file` names something that is no file, or its folder is missing.
    """
    file = output_file(file)
    part = file.with_name(f".{file.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for path in sorted(draft.rglob("*")):
                archive.write(path, path.relative_to(draft))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def unpack_file(file: Path, draft: Path) -> str:
    """Unpack a file of `pack_file` into an empty folder and check it. Returns the avatar's id. Raises PackedError."""
    try:
        with zipfile.ZipFile(file) as archive:
            check_entries(file, archive.infolist(), draft.parent)
            names = [name for name in archive.namelist() if not name.endswith("/")]
            avatar = _id_among(file, {name.partition("/")[0] for name in names})
            for name in names:
                if not _is_allowed(avatar, name):
                    raise PackedError(f"{file} holds {name[:80]!r}, which does not belong to a packed avatar.")
            archive.extractall(draft, names)
    except FileNotFoundError:
        raise PackedError(f"There is no file {file}.") from None
    except PackedError:
        raise
    except (*BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: an entry begins before the file does
            raise PackedError(f"{file} cannot be unpacked: {error.strerror or error}.") from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PackedError(
            f"{file} is not a packed avatar of `lipsync avatars pack`, or it is damaged ({reason})."
        ) from None
    (draft / avatar / "1").mkdir(parents=True, exist_ok=True)  # Triton needs a version folder for an ensemble too
    _check_configs(file, draft, avatar)
    for network in sorted(draft.rglob("*.onnx")):
        if trouble := external_trouble(network):
            raise PackedError(f"{file}: {network.relative_to(draft)} {trouble}.")
    return avatar


def _id_among(file: Path, folders: set[str]) -> str:
    ids = [name.removesuffix(NETWORK) for name in folders if name.endswith(NETWORK)]
    if len(ids) != 1 or not folders <= set(folders_of(ids[0])):
        raise PackedError(
            f"{file} is not a packed avatar: it holds {str(sorted(folders))[:200] if folders else 'nothing'}."
        )
    check_id(ids[0])
    return ids[0]


def _is_allowed(avatar: str, name: str) -> bool:
    encoder, network, ensemble = map(re.escape, folders_of(avatar))
    allowed = rf"{network}/({NETWORK_FILES})|{encoder}/({MODEL_FILES})|{ensemble}/config\.pbtxt"
    return re.fullmatch(allowed, name) is not None


def _check_configs(file: Path, draft: Path, avatar: str) -> None:
    """Check that configs name only the network runtime and the known stages, in the templates' fields.

    Other configs could run code.
    """
    encoder, network, ensemble = folders_of(avatar)
    allowed = {network: NETWORK_FIELDS, ensemble: ENSEMBLE_FIELDS, encoder: ENCODER_FIELDS}
    for name in (network, ensemble, *([encoder] if (draft / encoder).exists() else [])):
        path = draft / name / "config.pbtxt"
        try:
            config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        except OSError:
            raise PackedError(f"{file}: {name}/config.pbtxt is missing.") from None
        except (UnicodeDecodeError, text_format.ParseError) as error:
            reason = " ".join(str(error).split())[:200]
            raise PackedError(f"{file}: {name}/config.pbtxt cannot be read ({reason}).") from None
        is_ensemble = name == ensemble
        steps = {step.model_name for step in config.ensemble_scheduling.step}
        if strange := fields_beyond(allowed[name], config):
            raise PackedError(
                f"{file}: {name}/config.pbtxt holds {strange[0][:80]!r}, which does not belong to a packed avatar."
            )
        if (
            config.name != name
            or (config.backend, config.platform) != (("", "ensemble") if is_ensemble else ("onnxruntime", ""))
            or not steps <= ({*STAGES, network, encoder} if is_ensemble else set())
        ):
            raise PackedError(f"{file}: {name}/config.pbtxt is not the config of a packed avatar: pack it again.")
        if trouble := excess(config):
            raise PackedError(f"{file}: {name}/config.pbtxt is refused: {trouble}.")
