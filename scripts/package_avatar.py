"""Packs an avatar's source into a model repository: the network with the face crops inside, and composite's assets.

python scripts/package_avatar.py avatars/demo --repository model_repository
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import stages
from assets import key_name, write_assets
from avatar import Avatar
from avatar_source import AvatarSource, Picture, SourceError, face_crop
from graphs import served_unet, served_unet_visual
from rich.progress import track

SHIPPED = ("lipsync", "lipsync_ensemble")  # the demo's models, and the templates of every other avatar's
RESERVED = {"mel_preprocess", "audio_encoder", "composite", "lipsync_visual", "lipsync_visual_ensemble", *SHIPPED}
VALID_ID = re.compile(r"[a-z][a-z0-9_-]{0,47}")


def model_names(avatar_id: str, shipped: bool = False) -> tuple[str, str]:
    """The avatar's two models: its network and its ensemble.

    Raises:
        SourceError: an id that is no safe folder name, or a stage's name.
    """
    if not VALID_ID.fullmatch(avatar_id) or avatar_id in RESERVED or avatar_id.endswith("_lipsync"):
        raise SourceError(
            f"id {avatar_id!r} cannot be used: 1 to 48 of a-z, 0-9, _ and -, starting with a letter, "
            f"not ending in _lipsync, and none of {', '.join(sorted(RESERVED))}"
        )
    return SHIPPED if shipped else (f"{avatar_id}_lipsync", avatar_id)


def package_avatar(source: AvatarSource, repository: Path, *, shipped: bool = False) -> int:
    """Write the avatar's two model folders and its assets; an earlier version is replaced.

    Args:
        source: what to pack.
        repository: a Triton model repository that has the shipped models' configs, the templates.
        shipped: pack it as the pair `lipsync` / `lipsync_ensemble`, with `lipsync_visual` beside it.

    Returns:
        the avatar's key, a hash of its content.

    Raises:
        SourceError, ValueError: the source is broken; nothing was written.
    """
    network_name, ensemble_name = model_names(source.id, shipped)
    network = onnx.load(source.folder / source.unet)
    crops: list[Picture] = []
    boxes = source.read_boxes()
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=repository) as draft:
        packed = Path(draft) / "avatar"
        write_assets(
            packed,
            _collect_crops(source, boxes, crops),
            boxes,
            avatar_id=source.id,
            loop=source.loop,
            blend=source.blend,
            mask=source.mask,
            quality=source.jpeg_quality,
        )
        key = _content_key(packed, source.folder / source.unet)
        model = served_unet(network, np.stack(crops), source.mask, source.loop, key)
        onnx.save(model, Path(draft) / "model.onnx")
        facts = _facts(packed)
        config = _network_config(repository, network_name, facts)

        folder = repository / network_name
        assets = folder / "avatar" / key_name(key)
        assets.parent.mkdir(parents=True, exist_ok=True)
        if not assets.exists():
            packed.rename(assets)
        _place(Path(draft) / "model.onnx", folder / "1" / "model.onnx")
        _write_if_changed(folder / "config.pbtxt", config)
        _write_ensemble(repository, network_name, ensemble_name)
        # A running server may still serve the version before this one: that stays until the next packaging.
        older = sorted(
            (path for path in assets.parent.iterdir() if path != assets), key=lambda path: path.stat().st_mtime
        )
        for path in older[:-1]:
            shutil.rmtree(path)
        if shipped:
            onnx.save(served_unet_visual(network, key), Path(draft) / "visual.onnx")
            _place(Path(draft) / "visual.onnx", repository / "lipsync_visual" / "1" / "model.onnx")
    return key


def _collect_crops(source: AvatarSource, boxes: list[tuple[int, int, int]], crops: list[Picture]) -> Iterator[Picture]:
    """The footage's frames, leaving each one's face crop in `crops`: the video is decoded once for both uses."""
    shown = track(source.frames(), total=len(boxes), description=f"packing {source.id}", transient=True)
    for number, frame in enumerate(shown):
        if number < len(boxes):
            crops.append(face_crop(frame, boxes[number]))
        yield frame


def _content_key(packed: Path, network: Path) -> int:
    """63 bits of a hash of everything that makes the avatar's pictures."""
    digest = hashlib.sha256()
    for path in [*sorted(packed.iterdir()), network]:
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def _facts(packed: Path) -> dict[str, str]:
    """What the config publishes of the avatar."""
    facts = Avatar.open(packed).facts
    return {
        "avatar_id": facts.id,
        "frame_width": str(facts.width),
        "frame_height": str(facts.height),
        "footage_frames": str(facts.frames),
        "loop": facts.loop,
    }


def _substitute(text: str, pattern: str, value: str) -> str:
    result, count = re.subn(pattern, lambda match: f"{match[1]}{value}{match[2]}", text, flags=re.MULTILINE)
    if count != 1:
        raise SourceError(f"the template config.pbtxt must have {pattern} once, it has it {count} times")
    return result


def _network_config(repository: Path, name: str, facts: dict[str, str]) -> str:
    text = (repository / SHIPPED[0] / "config.pbtxt").read_text()
    text = _substitute(text, r'^(name: ")[^"]*(")', name)
    for key, value in facts.items():
        text = _substitute(text, rf'(key: "{key}"\s+value {{ string_value: ")[^"]*(")', value)
    return text


def _write_ensemble(repository: Path, network_name: str, ensemble_name: str) -> None:
    text = (repository / SHIPPED[1] / "config.pbtxt").read_text()
    text = _substitute(text, r'^(name: ")[^"]*(")', ensemble_name)
    text = _substitute(text, rf'(model_name: "){SHIPPED[0]}(")', network_name)
    (repository / ensemble_name / "1").mkdir(parents=True, exist_ok=True)
    _write_if_changed(repository / ensemble_name / "config.pbtxt", text)


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        draft = path.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(path)


def _place(draft: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft.replace(path)


def main() -> None:
    import typer

    def package(source: Path, repository: Path = stages.REPOSITORY) -> None:
        """Pack the avatar in the folder SOURCE (avatar.yaml, footage, boxes, network) into a model repository."""
        try:
            avatar = AvatarSource.read(source)
            key = package_avatar(avatar, repository, shipped=avatar.id == "demo")
        except (SourceError, ValueError) as error:
            raise SystemExit(f"package_avatar: {error}") from None
        print(f"{avatar.id}: packed into {repository}, key {key_name(key)}")

    typer.run(package)


if __name__ == "__main__":
    main()
