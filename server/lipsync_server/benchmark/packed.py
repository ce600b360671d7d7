"""The avatars that are measured: the demo's footage, packed with each preset."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lipsync_server import home
from lipsync_server.benchmark import PRESETS
from lipsync_server.repository.build import build
from lipsync_server.repository.package import package_avatar
from lipsync_server.repository.source import AvatarSource

DEMO = home.AVATARS / "demo"


FULL_WIDTH = ("high", "exact")  # presets of a width that the demo does not have


def demo_presets() -> list[str]:
    """The presets of the demo's width; turbo needs a head."""
    head = AvatarSource.read(DEMO).head
    return [preset for preset in PRESETS if preset != "turbo" or head]


def packed_repository(folder: Path, presets: list[str], full_width: Callable[[Path], None] | None = None) -> Path:
    """A copy of the built repository in `folder` with the demo avatar once more for each preset, as `demo-<preset>`.

    One that is there already is taken, if it was made from this very build.

    Args:
        full_width: writes a network of full width as ONNX; without it there are no presets of that width.

    Raises:
        ValueError: a preset needs a network of full width.
    """
    if full_width is None and (wide := [preset for preset in presets if preset in FULL_WIDTH]):
        raise ValueError(
            f"preset {wide[0]} needs a network of full width: in a checkout with the extra studio, `make benchmark`"
        )
    build(home.repository())
    repository = folder / "model_repository"
    stamp = (home.repository() / ".build.json").read_text()
    if not repository.exists() or (repository / ".build.json").read_text() != stamp:
        shutil.rmtree(repository, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__", ".*cache", "configs")
        shutil.copytree(home.repository(), repository, ignore=ignored)
    source = AvatarSource.read(DEMO)
    for preset in presets:
        if not (repository / f"demo-{preset}" / "config.pbtxt").exists():
            unet = source.unet
            if full_width and preset in FULL_WIDTH:
                unet = str(folder / "full.onnx")
                full_width(Path(unet))
            package_avatar(replace(source, id=f"demo-{preset}", preset=preset, unet=unet), repository)
    return repository


def copied(repository: Path, avatar: str, number: int) -> str:
    """A further avatar, a copy of a packed one in its own files; returns its id."""
    copy = f"copy{number}"
    for name, new in ((f"{avatar}_lipsync", f"{copy}_lipsync"), (avatar, copy)):
        shutil.copytree(repository / name, repository / new, dirs_exist_ok=True)
        text = (repository / new / "config.pbtxt").read_text()
        (repository / new / "config.pbtxt").write_text(text.replace(f'"{avatar}', f'"{copy}'))
    return copy
