"""The avatars that are measured: the demo's footage, packed with each preset."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import onnx

from lipsync_server import home
from lipsync_server.repository.build import build
from lipsync_server.repository.package import package_avatar
from lipsync_server.repository.source import AvatarSource

DEMO = home.AVATARS / "demo"


def packed_repository(folder: Path, presets: list[str]) -> Path:
    """A copy of the built repository in `folder` with the demo avatar once more for each preset, as `demo-<preset>`.

    One that is there already is taken, if it was made from this very build.
    """
    build(home.REPOSITORY)
    repository = folder / "model_repository"
    stamp = (home.REPOSITORY / ".build.json").read_text()
    if not repository.exists() or (repository / ".build.json").read_text() != stamp:
        shutil.rmtree(repository, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__", ".*cache", "configs")
        shutil.copytree(home.REPOSITORY, repository, ignore=ignored)
    source = AvatarSource.read(DEMO)
    for preset in presets:
        if not (repository / f"demo-{preset}" / "config.pbtxt").exists():
            unet = _full_width(folder) if preset in ("high", "exact") else source.unet
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


def _full_width(folder: Path) -> str:
    """A full-width network for the demo's footage, with random weights: for its speed only."""
    import torch

    from lipsync_studio.export import export_unet
    from lipsync_studio.networks import UNet

    torch.manual_seed(0)
    path = folder / "full.onnx"
    onnx.save(export_unet(UNet("full").eval()), path)
    return str(path)
