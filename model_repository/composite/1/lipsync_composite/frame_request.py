"""Makes JPEG frames from a request's tensors: checks the values and finds the avatars."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lipsync_composite.assets import key_name
from lipsync_composite.avatar import AssetsError, PackedAvatar
from lipsync_composite.segments import Rect


class FrameRequestError(Exception):
    """The request cannot be served; the message names the field, its value and what is allowed."""


class Avatars:
    """Finds the packed avatars of a model repository by key, and keeps the most recently used ones open.

    Args:
        repository: the folder of all models; an avatar lies in `<any model>/avatar/<key>/`.
        capacity: how many to keep open. An open one costs two open files, and little memory.
        mark: mark their pictures as synthetic.
        ours_only: take only folders of this process's user; strangers may write to `repository`.
    """

    def __init__(self, repository: Path, capacity: int = 64, *, mark: bool = True, ours_only: bool = False) -> None:
        self._repository, self._capacity, self._mark, self._ours_only = repository, capacity, mark, ours_only
        self._open: OrderedDict[int, tuple[Path, PackedAvatar]] = OrderedDict()

    @classmethod
    def beside(cls, model: Path, name: str, *, mark: bool = True) -> Avatars:
        """Those of the models beside a model, whose folder is `model`.

        Triton downloads a repository on S3 (gs, as) model by model, each into a temporary folder of another name than
        the model's. They lie side by side too, but in a folder that strangers may write to.
        """
        return cls(model.parent, mark=mark, ours_only=model.name != name)

    def get(self, key: int) -> PackedAvatar:
        """The avatar of a key.

        Raises:
            FrameRequestError: there is none.
            AssetsError: its files are broken.
        """
        folder, avatar = self._open.pop(key, (None, None))
        if folder is None or avatar is None or not folder.is_dir():  # a removed avatar must not stay alive in memory
            folder = next(filter(self._is_ours, self._repository.glob(f"*/avatar/{key_name(key)}")), None)
            if folder is None:
                raise FrameRequestError(
                    f"avatar_key is {key}, but there is no avatar {key_name(key)} on this server; allowed: the keys "
                    "that its lipsync models give"
                )
            avatar = PackedAvatar.open(folder, mark=self._mark)
        self._open[key] = folder, avatar
        if len(self._open) > self._capacity:
            self._open.popitem(last=False)
        return avatar

    def _is_ours(self, folder: Path) -> bool:
        return not self._ours_only or folder.stat().st_uid == os.geteuid()

    def forget(self, key: int) -> None:
        """Open the avatar anew for the next request: its files were changed, and may be put right."""
        self._open.pop(key, None)


class Patch(NamedTuple):
    """What a mouth changes of a footage frame: where, in pixels, the JPEG of it, and the avatar's key."""

    box: Rect
    jpeg: bytes
    key: int


def compose(
    avatars: Avatars,
    keys: NDArray[np.int64],
    positions: NDArray[np.int64],
    mouths: NDArray[np.uint8] | None,
    max_frames: int,
) -> list[bytes]:
    """Make N frames.

    Args:
        avatars: the repository's avatars.
        keys: the avatar of each frame, shape = (N, 1).
        positions: position >= 0 of each frame in the avatar's looped footage, shape = (N, 1).
        mouths: the network's pictures, BGR, shape = (N, 320, 320, 3); None for plain footage.
        max_frames: the largest N allowed.

    Returns:
        N JPEG files.

    Raises:
        FrameRequestError: a value is not allowed.
        AssetsError: the avatar's files are broken.
    """
    with _opened(avatars, keys, positions, mouths, max_frames) as places:
        if mouths is None:
            return [avatar.footage_jpeg(position) for avatar, position in places]
        return [avatar.render(position, mouth) for (avatar, position), mouth in zip(places, mouths, strict=True)]


def compose_patches(
    avatars: Avatars,
    keys: NDArray[np.int64],
    positions: NDArray[np.int64],
    mouths: NDArray[np.uint8] | None,
    max_frames: int,
) -> list[Patch]:
    """Make N patches: what frames have and their footage has not. Args, Raises: as `compose`; `mouths` is needed."""
    if mouths is None:
        raise FrameRequestError("patches is true, but mouth is missing: plain footage has no patches")
    with _opened(avatars, keys, positions, mouths, max_frames) as places:
        return [
            Patch(*avatar.render_patch(position, mouth), key)
            for (avatar, position), mouth, key in zip(places, mouths, keys.ravel().tolist(), strict=True)
        ]


@contextmanager
def _opened(
    avatars: Avatars,
    keys: NDArray[np.int64],
    positions: NDArray[np.int64],
    mouths: NDArray[np.uint8] | None,
    max_frames: int,
) -> Iterator[list[tuple[PackedAvatar, int]]]:
    """Each frame's avatar and position. Those whose files are found broken meanwhile are forgotten."""
    count = len(positions)
    if not 1 <= count <= max_frames:
        raise FrameRequestError(f"footage_position has {count} frames; allowed: 1 to {max_frames}")
    check_count("avatar_key", keys, count)
    check_count("mouth", mouths, count)
    if positions.min() < 0:
        raise FrameRequestError(f"footage_position is {positions.min()}; allowed: 0 and above")
    opened = {key: avatars.get(key) for key in dict.fromkeys(keys.ravel().tolist())}
    order = zip(keys.ravel().tolist(), positions.ravel().tolist(), strict=True)
    try:
        yield [(opened[key], position) for key, position in order]
    except AssetsError:
        for key in opened:
            avatars.forget(key)
        raise


def check_count(name: str, tensor: NDArray[Any] | None, count: int) -> None:
    """Raise FrameRequestError if the tensor is not None and does not have one entry for each frame."""
    if tensor is not None and len(tensor) != count:
        raise FrameRequestError(f"{name} has {len(tensor)} entries; allowed: {count}, one for each footage_position")
