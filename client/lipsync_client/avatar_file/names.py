"""Names of a packed avatar: its id, and its folders in a model repository.

An avatar X has the folders `X_lipsync` (network and footage), `X` (the ensemble that clients call) and, if it has its
own encoder, `X_audio_encoder`. `lipsync avatars pack` makes them.
"""

from __future__ import annotations

import re

from lipsync_client.errors import LipsyncError
from lipsync_client.wire import SHIPPED_AVATAR

__all__ = [
    "ENCODER",
    "NETWORK",
    "SHIPPED_MODELS",
    "STAGES",
    "VALID_ID",
    "PackedError",
    "check_id",
    "check_removable",
    "folders_of",
]

VALID_ID = re.compile(r"[a-z][a-z0-9_-]{0,47}")
NETWORK, ENCODER = "_lipsync", "_audio_encoder"
STAGES = ("mel_preprocess", "audio_encoder", "audio_encoder_int8", "composite")
SHIPPED_MODELS = ("lipsync", "lipsync_ensemble", "lipsync_visual", "lipsync_visual_ensemble")
RESERVED = {*STAGES, *SHIPPED_MODELS, SHIPPED_AVATAR}


class PackedError(LipsyncError, ValueError):
    """A packed avatar, its id or the repository is not valid; the text says what is wrong."""


def check_id(avatar: str) -> None:
    """Raise PackedError for an id that is not a safe folder name, or that the product uses itself."""
    if avatar in RESERVED:
        raise PackedError(f"id {avatar!r} cannot be used: the server has it for itself. Choose another")
    if not VALID_ID.fullmatch(avatar) or avatar.endswith((NETWORK, ENCODER)):
        raise PackedError(
            f"id {avatar!r} cannot be used: 1 to 48 of a-z, 0-9, _ and -, starting with a letter, not ending in "
            f"{NETWORK} or {ENCODER}"
        )


def check_removable(avatar: str) -> None:
    """Raise PackedError for a name that is no avatar that was added; the text says what the person can do."""
    if avatar == SHIPPED_AVATAR:
        raise PackedError(
            f"{avatar} came with the server and cannot be removed. `lipsync avatars unload {avatar}` frees its memory."
        )
    if avatar in RESERVED:
        raise PackedError(f"{avatar} is no avatar but a part of the server, which all avatars need.")
    for ending in (NETWORK, ENCODER):
        if avatar.endswith(ending) and avatar != ending:
            whole = avatar.removesuffix(ending)
            raise PackedError(f"{avatar} is a part of the avatar {whole}: `lipsync avatars remove {whole}`.")
    if not VALID_ID.fullmatch(avatar):
        raise PackedError(f"There is no avatar {avatar!r}: `lipsync avatars` lists them all.")


def folders_of(avatar: str) -> tuple[str, str, str]:
    """The avatar's folders in the order in which they must be put in place: its own encoder, network, ensemble."""
    return f"{avatar}{ENCODER}", f"{avatar}{NETWORK}", avatar
