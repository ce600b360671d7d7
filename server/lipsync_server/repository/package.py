"""Packs an avatar's source for a server: the network with the face crops inside, and composite's assets.

    python scripts/package_avatar.py avatars/anna                   into model_repository/, also while it is served
    python scripts/package_avatar.py avatars/anna --to anna.zip     into a file, for `lipsync avatars add` elsewhere

The packed network is loaded and run before anything is put in place; a version that is there is replaced as a whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from lipsync_client.avatar_file.packed import PackedError, check_id, draft_in, folders_of, installed, pack_file
from lipsync_client.errors import LipsyncError
from lipsync_composite.assets import key_name, write_assets
from lipsync_composite.avatar import Avatar
from lipsync_server import home
from lipsync_server.networks.graphs import expand_weights, served_encoder, served_unet, served_unet_visual
from lipsync_server.repository.folders import (
    INT8_ENCODER,
    SHARED_ENCODER,
    SHIPPED,
    encoder_mark,
    network_config,
    place_shipped,
    write_encoder,
    write_ensemble,
)
from lipsync_server.repository.source import AvatarSource, Picture, SourceError, face_crop
from lipsync_server.repository.trial import stage_memory_mb

PRESETS = {  # width, arithmetic on a CPU
    "low": ("half", "INT8"),
    "medium": ("half", "BF16"),  # FP32 on CPUs that do not compute in BF16
    "high": ("full", "INT8"),
    "exact": ("any", "FP32"),
}
FULL_WIDTH = 6_000_000  # parameters: the full network has 12.2 million, the half 3.1
CALIBRATION = 64  # frames


def model_names(avatar_id: str, shipped: bool = False) -> tuple[str, str]:
    """The avatar's two models: its network and its ensemble.

    Raises:
        SourceError: an id that is no safe folder name, or a stage's name.
    """
    if shipped:
        return SHIPPED
    try:
        check_id(avatar_id)
    except PackedError as error:
        raise SourceError(str(error)) from None
    return folders_of(avatar_id)[1], folders_of(avatar_id)[2]


def choose_preset(network: onnx.ModelProto, wanted: str | None) -> str:
    """The preset to pack a network with: `wanted`, if its width is that preset's.

    Raises:
        SourceError: an unknown preset, or one of another width.
    """
    width = "full" if sum(math.prod(tensor.dims) for tensor in network.graph.initializer) > FULL_WIDTH else "half"
    preset = wanted or {"half": "medium", "full": "high"}[width]
    if preset not in PRESETS:
        raise SourceError(f"preset is {preset!r}: it must be one of {', '.join(PRESETS)}")
    if PRESETS[preset][0] not in (width, "any"):
        fitting = [name for name, (needed, _) in PRESETS.items() if needed in (width, "any")]
        raise SourceError(f"preset is {preset}, but the network has {width} width: use {' or '.join(fitting)}")
    return preset


def package_avatar(source: AvatarSource, repository: Path, *, shipped: bool = False, to: Path | None = None) -> int:
    """Pack an avatar into a model repository, or into a file.

    Args:
        source: what to pack.
        repository: a Triton model repository that has the shipped models' configs, the templates. An earlier version
            there is replaced; a running server goes on with it until it loads the avatar again.
        shipped: pack it as the pair `lipsync` / `lipsync_ensemble`, with `lipsync_visual` beside it.
        to: the file to write instead.

    Returns:
        the avatar's key, a hash of its content.

    Raises:
        SourceError, ValueError: the source is broken, or what was packed cannot be served; nothing has changed.
    """
    network_name, ensemble_name = model_names(source.id, shipped)
    network = expand_weights(onnx.load(source.folder / source.unet))
    preset = choose_preset(network, source.preset)
    if source.encoder and shipped:
        raise SourceError(
            f"{source.folder}: the shipped avatar has the shared encoder; take `encoder` out of avatar.yaml"
        )
    encoder = _own_encoder(source, repository)
    crops: list[Picture] = []
    boxes = source.read_boxes()
    with draft_in(repository) as draft:
        folder = draft / network_name
        packed = folder / "avatar" / "packed"
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
        if _is_int8(preset):
            network = _in_int8(network, pictures, source, repository, encoder)
        key = _content_key(packed, network)
        while any(path.parent.parent.name != network_name for path in repository.glob(f"*/avatar/{key_name(key)}")):
            key += 1  # one in two thousand million: another avatar has it
        packed.rename(assets := packed.with_name(key_name(key)))
        version = "1" if shipped else _version(encoder, preset)
        model = served_unet(network, pictures, source.mask, source.loop, key)
        facts = _facts(assets, key) | {"audio_encoder": "own" if encoder else encoder_mark(repository)}
        _write_network(repository, folder, version, model, preset, facts)

        encoder_name = INT8_ENCODER if _is_int8(preset) else SHARED_ENCODER
        if encoder:
            encoder_name = folders_of(source.id)[0]
            write_encoder(repository, encoder_name, encoder, draft, version)
        pinned = "-1" if shipped else version
        write_ensemble(repository, draft, ensemble_name, network_name, encoder_name, pinned)
        if shipped:
            onnx.save(served_unet_visual(network, key), draft / "visual.onnx")
            place_shipped(draft, repository)
        elif to:
            pack_file(draft, to)
        else:
            with installed(draft, source.id, repository):
                pass  # whoever serves it loads it, and finds the old version in use until then
    return key


def _write_network(
    repository: Path, folder: Path, version: str, model: onnx.ModelProto, preset: str, facts: dict[str, str]
) -> None:
    """The network's model folder, and the proof that it can be served. The crops lie beside the model: mapped from
    there, they cost no memory of their own."""
    (folder / version).mkdir()
    crops = f"{key_name(int(facts['avatar_key']))}.crops"
    path = folder / version / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location=crops, size_threshold=2**20)

    def write_config(memory_mb: int) -> None:
        stated = facts | {"preset": preset, "memory_mb": str(memory_mb)}
        text = network_config(repository, folder.name, arithmetic=PRESETS[preset][1], facts=stated)
        (folder / "config.pbtxt").write_text(text)

    write_config(0)
    write_config(stage_memory_mb(folder))


def _own_encoder(source: AvatarSource, repository: Path) -> onnx.ModelProto | None:
    """The encoder that the avatar was trained with; None if that is the one that all share."""
    if not source.encoder:
        return None
    encoder = served_encoder(onnx.load(source.folder / source.encoder))
    shared = repository / SHARED_ENCODER / "1" / "model.onnx"
    return None if shared.exists() and onnx.load(shared) == encoder else encoder


def _version(encoder: onnx.ModelProto | None, preset: str) -> str:
    """The version folder of the network, and of its own encoder. It tells which encoder the network hears through, and
    the ensemble asks for that version: while an avatar is replaced by one that hears otherwise, no request that began
    with the old encoder can end in the new network."""
    if encoder is None:
        return "2" if _is_int8(preset) else "1"
    digest = hashlib.sha256(encoder.SerializeToString(deterministic=True)).digest()
    return str(3 + int.from_bytes(digest[:6], "big"))


def _is_int8(preset: str) -> bool:
    return PRESETS[preset][1] == "INT8"


def _collect_crops(source: AvatarSource, boxes: list[tuple[int, int, int]], crops: list[Picture]) -> Iterator[Picture]:
    """The footage's frames, leaving each one's face crop in `crops`: the video is decoded once for both uses."""
    shown = track(source.frames(), total=len(boxes), description=f"packing {source.id}", transient=True)
    for number, frame in enumerate(shown):
        if number < len(boxes):
            crops.append(face_crop(frame, boxes[number]))
        yield frame


def _in_int8(
    network: onnx.ModelProto,
    crops: NDArray[np.uint8],
    source: AvatarSource,
    repository: Path,
    encoder: onnx.ModelProto | None,
) -> onnx.ModelProto:
    """The network quantised on the avatar's own crops and the sample speech; says what INT8 costs in accuracy."""
    from lipsync_server.networks.quantize import LEAST_DB, mouth_psnr, network_inputs, quantize_within, speech_features

    sample = home.read_sample()
    features = speech_features(repository, sample, encoder or SHARED_ENCODER)
    heard = features if encoder else speech_features(repository, sample, INT8_ENCODER)
    examples = list(network_inputs(crops, features, source.mask, CALIBRATION))
    with Console().status(f"quantising {source.id} on {CALIBRATION} frames"):
        exact, rough = (list(network_inputs(crops[::-1], x, source.mask, 12)) for x in (features, heard))
        small, psnr, kept = quantize_within(network, examples, lambda int8: mouth_psnr((network, exact), (int8, rough)))
    layers = f", with {kept} layers in FP32" if kept else ""
    print(f"{source.id}: INT8 mouths are {psnr:.1f} dB from FP32{layers}")
    if psnr < LEAST_DB:
        raise SourceError(f"{source.id}: INT8 spoils this network ({psnr:.1f} dB): use the preset medium or exact")
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


def main() -> None:
    """For `lipsync avatars add`: SOURCE --repository REPOSITORY --to FILE."""
    import sys

    source, repository, to = (Path(value) for value in (sys.argv[1], sys.argv[3], sys.argv[5]))
    try:
        package_avatar(AvatarSource.read(source), repository, to=to)
    except (ValueError, LipsyncError, OSError) as error:
        raise SystemExit(f"package_avatar: {error}") from None


if __name__ == "__main__":
    main()
