"""Packs an avatar's source into a model repository: the network with the face crops inside, and composite's assets.

python scripts/package_avatar.py avatars/demo --repository model_repository
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
import stages
from assets import key_name, write_assets
from avatar import Avatar
from avatar_source import AvatarSource, Picture, SourceError, face_crop
from graphs import expand_weights, served_encoder, served_unet, served_unet_visual

SHARED_ENCODER = "audio_encoder"
INT8_ENCODER = "audio_encoder_int8"  # the shared one for avatars in INT8
OWN_ENCODER = "_audio_encoder"  # <id>_audio_encoder, where an avatar brings its own
SHIPPED = ("lipsync", "lipsync_ensemble")  # the demo's models, and the templates of every other avatar's
RESERVED = {
    *("mel_preprocess", SHARED_ENCODER, INT8_ENCODER, "composite", "lipsync_visual", "lipsync_visual_ensemble"),
    *SHIPPED,
}
PRESETS = {  # width, INT8
    "low": ("half", True),
    "medium": ("half", False),
    "high": ("full", True),
    "exact": ("full", False),
}
FULL_WIDTH = 6_000_000  # parameters: the full network has 12.2 million, the half 3.1
CALIBRATION = 64  # frames
VALID_ID = re.compile(r"[a-z][a-z0-9_-]{0,47}")


def model_names(avatar_id: str, shipped: bool = False) -> tuple[str, str]:
    """The avatar's two models: its network and its ensemble.

    Raises:
        SourceError: an id that is no safe folder name, or a stage's name.
    """
    if not VALID_ID.fullmatch(avatar_id) or avatar_id in RESERVED or avatar_id.endswith(("_lipsync", OWN_ENCODER)):
        raise SourceError(
            f"id {avatar_id!r} cannot be used: 1 to 48 of a-z, 0-9, _ and -, starting with a letter, "
            f"not ending in _lipsync or {OWN_ENCODER}, and none of {', '.join(sorted(RESERVED))}"
        )
    return SHIPPED if shipped else (f"{avatar_id}_lipsync", avatar_id)


def choose_preset(network: onnx.ModelProto, wanted: str | None) -> str:
    """The preset to pack a network with: `wanted`, if its width is that preset's.

    Raises:
        SourceError: an unknown preset, or one of another width.
    """
    width = "full" if sum(math.prod(tensor.dims) for tensor in network.graph.initializer) > FULL_WIDTH else "half"
    preset = wanted or {"half": "medium", "full": "high"}[width]
    if preset not in PRESETS:
        raise SourceError(f"preset is {preset!r}: it must be one of {', '.join(PRESETS)}")
    if PRESETS[preset][0] != width:
        fitting = [name for name, (needed, _) in PRESETS.items() if needed == width]
        raise SourceError(f"preset is {preset}, but the network has {width} width: use {' or '.join(fitting)}")
    return preset


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
    network = expand_weights(onnx.load(source.folder / source.unet))
    preset = choose_preset(network, source.preset)
    if source.encoder and shipped:
        raise SourceError(
            f"{source.folder}: the shipped avatar has the shared encoder; take `encoder` out of avatar.yaml"
        )
    encoder = served_encoder(onnx.load(source.folder / source.encoder)) if source.encoder else None
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
        pictures = np.stack(crops)
        if PRESETS[preset][1]:
            network = _in_int8(network, pictures, source, repository, encoder)
        key = _content_key(packed, network)
        while any(path.parent.parent.name != network_name for path in repository.glob(f"*/avatar/{key_name(key)}")):
            key += 1  # one in two thousand million: another avatar has it
        model = served_unet(network, pictures, source.mask, source.loop, key)
        # The crops lie beside the model: mapped from there, they cost no memory of their own.
        crops_file = f"{key_name(key)}.crops"
        onnx.save(
            model, Path(draft) / "model.onnx", save_as_external_data=True, location=crops_file, size_threshold=2**20
        )
        config = _network_config(repository, network_name, preset, _facts(packed, key))

        folder = repository / network_name
        assets = folder / "avatar" / key_name(key)
        assets.parent.mkdir(parents=True, exist_ok=True)
        if not assets.exists():
            packed.rename(assets)
        assets.touch()  # the newest version, also where it was here before
        _place(Path(draft) / crops_file, folder / "1" / crops_file)
        _place(Path(draft) / "model.onnx", folder / "1" / "model.onnx")
        _write_if_changed(folder / "config.pbtxt", config)
        own_encoder = f"{source.id}{OWN_ENCODER}"
        if encoder:
            write_encoder(repository, own_encoder, encoder)
            _write_ensemble(repository, network_name, ensemble_name, own_encoder)
        else:
            shared = INT8_ENCODER if PRESETS[preset][1] else SHARED_ENCODER
            _write_ensemble(repository, network_name, ensemble_name, shared)
            shutil.rmtree(repository / own_encoder, ignore_errors=True)  # an earlier version's
        _remove_all_but_two(assets.parent.iterdir())
        _remove_all_but_two((folder / "1").glob("*.crops"))
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


def _remove_all_but_two(versions: Iterable[Path]) -> None:
    """Keep the newest and the one before it, which a running server may still serve until it loads the new one."""
    for old in sorted(versions, key=lambda path: path.stat().st_mtime)[:-2]:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()


def _in_int8(
    network: onnx.ModelProto,
    crops: NDArray[np.uint8],
    source: AvatarSource,
    repository: Path,
    encoder: onnx.ModelProto | None,
) -> onnx.ModelProto:
    """The network quantised on the avatar's own crops and the sample speech; says what INT8 costs in accuracy."""
    from quantize import mouth_psnr, network_inputs, quantize, speech_features

    sample = stages.read_sample()
    features = speech_features(repository, sample, encoder or SHARED_ENCODER)
    heard = features if encoder else speech_features(repository, sample, INT8_ENCODER)
    examples = list(network_inputs(crops, features, source.mask, CALIBRATION))
    with Console().status(f"quantising {source.id} on {CALIBRATION} frames"):
        small = quantize(network, examples)
        exact, rough = (list(network_inputs(crops[::-1], x, source.mask, 12)) for x in (features, heard))
        psnr = mouth_psnr((network, exact), (small, rough))
    print(f"{source.id}: INT8 mouths are {psnr:.1f} dB from FP32")
    return small


def _content_key(packed: Path, network: onnx.ModelProto) -> int:
    """31 bits of a hash of everything that makes the avatar's pictures: OpenVINO keeps no more of an INT64."""
    digest = hashlib.sha256(network.SerializeToString(deterministic=True))
    for path in sorted(packed.iterdir()):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:4], "big") >> 1


def _facts(packed: Path, key: int) -> dict[str, str]:
    """What the config publishes of the avatar."""
    facts = Avatar.open(packed).facts
    return {
        "avatar_id": facts.id,
        "avatar_key": str(key),
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


def _network_config(repository: Path, name: str, preset: str, facts: dict[str, str]) -> str:
    text = (repository / SHIPPED[0] / "config.template.pbtxt").read_text()
    text = _substitute(text, r'^(name: ")[^"]*(")', name)
    accelerator = '{ name: "openvino" }' if PRESETS[preset][1] else ""
    text = _substitute(text, r"(cpu_execution_accelerator: \[ ).*?( \])", accelerator)
    for key, value in (facts | {"preset": preset}).items():
        text = _substitute(text, rf'(key: "{key}"\s+value {{ string_value: ")[^"]*(")', value)
    return text


def write_encoder(repository: Path, name: str, encoder: onnx.ModelProto) -> None:
    """Write a served encoder as the model `name`, configured as the shared one."""
    folder = repository / name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    draft = folder / "1" / "model.draft"
    onnx.save(encoder, draft)
    draft.replace(folder / "1" / "model.onnx")
    text = (repository / SHARED_ENCODER / "config.pbtxt").read_text()
    _write_if_changed(folder / "config.pbtxt", _substitute(text, r'^(name: ")[^"]*(")', name))


def _write_ensemble(repository: Path, network_name: str, ensemble_name: str, encoder_name: str) -> None:
    text = (repository / SHIPPED[1] / "config.pbtxt").read_text()
    text = _substitute(text, r'^(name: ")[^"]*(")', ensemble_name)
    text = _substitute(text, rf'(model_name: "){SHIPPED[0]}(")', network_name)
    text = _substitute(text, rf'(model_name: "){SHARED_ENCODER}(")', encoder_name)
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

    def package(source: Path, repository: Path = stages.REPOSITORY, preset: str | None = None) -> None:
        """Pack the avatar in the folder SOURCE (avatar.yaml, footage, boxes, network) into a model repository.

        PRESET: low (half width, INT8), medium (half width), high (full width, INT8) or exact (full width, FP32).
        """
        try:
            avatar = AvatarSource.read(source)
            avatar = replace(avatar, preset=preset or avatar.preset)
            key = package_avatar(avatar, repository, shipped=avatar.id == "demo")
        except (SourceError, ValueError) as error:
            raise SystemExit(f"package_avatar: {error}") from None
        print(f"{avatar.id}: packed into {repository}, key {key_name(key)}")

    typer.run(package)


if __name__ == "__main__":
    main()
