"""Packs an avatar's source for a server: the network with the face crops inside, and composite's assets.

The packed network is loaded and run before anything is put in place; a version that is there is replaced as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.progress import track

from lipsync_client.avatar_facts import AvatarFacts
from lipsync_client.avatar_file.archive import pack_file
from lipsync_client.avatar_file.install import draft_in, installed
from lipsync_client.avatar_file.names import PackedError, check_id, folders_of
from lipsync_client.console import notes
from lipsync_composite.assets import check_settings, key_name, write_assets
from lipsync_composite.avatar import PackedAvatar
from lipsync_onnx.engines import ONNXRUNTIME
from lipsync_server.networks.graphs import expand_weights, served_encoder
from lipsync_server.networks.head import with_head
from lipsync_server.networks.unet_graphs import Resident, served_unet_visual
from lipsync_server.repository.avatar_int8 import quantised
from lipsync_server.repository.engine_trial import choose_way
from lipsync_server.repository.model_folders import (
    INT8_ENCODER,
    SHARED_ENCODER,
    SHIPPED,
    encoder_mark,
    place_shipped,
    write_encoder,
    write_ensemble,
    write_network_config,
)
from lipsync_server.repository.presets import Way, arithmetic_of, choose_preset
from lipsync_server.repository.source import AvatarSource, Picture, SourceError, face_crop
from lipsync_server.repository.trial import stage_memory_mb
from lipsync_server.repository.visual_half import served_half, write_networks


@dataclass(frozen=True)
class Plan:
    """What is packed, and under which names; made by `plan`, before anything is written.

    Attributes:
        source: the avatar.
        repository: what it is packed for: its templates and audio encoders.
        shipped: it is the pair `lipsync` / `lipsync_ensemble`.
        network: the plain U-Net, in FP32.
        preset: a name of `PRESETS`.
        head: what takes the place of the network's last stage; None for the network's own.
        encoder: the avatar's own audio encoder, as served; None for the shared one.
        version: the version folder of its network, and of its own encoder. It tells which encoder the network belongs
            to, and the ensemble asks for that version. So while an avatar is replaced by one with another encoder, no
            request that began with the old encoder can end in the new network.
    """

    source: AvatarSource
    repository: Path
    shipped: bool
    network: onnx.ModelProto
    preset: str
    head: onnx.ModelProto | None
    encoder: onnx.ModelProto | None
    version: str

    @property
    def network_name(self) -> str:
        return SHIPPED[0] if self.shipped else folders_of(self.source.id)[1]

    @property
    def ensemble_name(self) -> str:
        return SHIPPED[1] if self.shipped else folders_of(self.source.id)[2]

    @property
    def encoder_name(self) -> str:
        if self.encoder is not None:
            return folders_of(self.source.id)[0]
        return INT8_ENCODER if self.is_int8 else SHARED_ENCODER

    @property
    def is_int8(self) -> bool:
        return arithmetic_of(self.preset) == "INT8"


def check_avatar_id(avatar_id: str) -> None:
    """Raises SourceError for an id that is no safe folder name, or a stage's name."""
    try:
        check_id(avatar_id)
    except PackedError as error:
        raise SourceError(str(error)) from None


def plan(source: AvatarSource, repository: Path, *, shipped: bool = False) -> Plan:
    """Decide how an avatar is packed. Writes nothing. Raises SourceError, ValueError: the source is broken."""
    if not shipped:
        check_avatar_id(source.id)
    check_settings(source.loop, source.blend, source.mask, source.jpeg_quality)
    network = expand_weights(source.network(source.unet))
    preset = choose_preset(network, source.preset)
    if source.encoder and shipped:
        raise SourceError(
            f"{source.folder}: the shipped avatar has the shared encoder; take `encoder` out of avatar.yaml"
        )
    encoder = _own_encoder(source, repository)
    version = "1" if shipped else _version(encoder, preset)
    return Plan(source, repository, shipped, network, preset, _head(source, preset), encoder, version)


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
    planned = plan(source, repository, shipped=shipped)
    with draft_in(repository) as draft:
        key = write_packed(planned, draft)
        if shipped:
            place_shipped(draft, repository)
        elif to:
            pack_file(draft, to)
        else:
            with installed(draft, source.id, repository):
                pass  # whoever serves it loads it, and finds the old version in use until then
    return key


def pack_folder(folder: Path, draft: Path, repository: Path) -> str:
    """Pack an avatar's source folder into an empty folder of the repository (`draft_in`); what `lipsync avatars add`
    calls. Returns the avatar's id. Errors as `package_avatar`.
    """
    source = AvatarSource.read(folder)
    write_packed(plan(source, repository), draft)
    return source.id


def write_packed(planned: Plan, draft: Path) -> int:
    """Write the avatar's model folders into the folder `draft`, and prove that its network can be served.

    Returns:
        the avatar's key.
    """
    source, repository = planned.source, planned.repository
    footage = _Footage(source)
    folder = draft / planned.network_name
    packed = folder / "avatar" / "packed"
    write_assets(
        packed,
        footage.frames(),
        footage.boxes,
        avatar_id=source.id,
        loop=source.loop,
        blend=source.blend,
        mask=source.mask,
        quality=source.jpeg_quality,
    )
    crops = np.stack(footage.crops)
    network, way, trial_cpu = _fastest(planned, crops)
    key = _free_key(_content_key(packed, network), planned.network_name, repository)
    packed = packed.rename(packed.with_name(key_name(key)))
    _write_network(planned, folder, network, crops, way, replace(_facts(planned, packed, key), trial_cpu=trial_cpu))
    if planned.encoder is not None:
        write_encoder(repository, planned.encoder_name, planned.encoder, draft, planned.version)
    pinned = "-1" if planned.shipped else planned.version
    write_ensemble(repository, draft, planned.ensemble_name, planned.network_name, planned.encoder_name, pinned)
    if planned.shipped:
        onnx.save(served_unet_visual(network, key), draft / "visual.onnx")
    return key


def _fastest(planned: Plan, crops: NDArray[np.uint8]) -> tuple[onnx.ModelProto, Way, str | None]:
    """The network that is served, how a CPU runs it, and the kind of CPU on which a trial chose this."""
    source, networks = planned.source, {"FP32": planned.network}
    if planned.is_int8:
        networks["INT8"] = quantised(planned.network, crops, source, planned.repository, planned.encoder)
    if planned.head is not None:
        networks = {name: with_head(network, planned.head) for name, network in networks.items()}
    served = {name: served_half(network, source.mask, source.blend)[1].network for name, network in networks.items()}
    way, trial_cpu = choose_way(source.id, planned.preset, served)
    return networks[way.network], way, trial_cpu


def _write_network(
    planned: Plan, folder: Path, network: onnx.ModelProto, crops: NDArray[np.uint8], way: Way, facts: AvatarFacts
) -> None:
    """The network's model folder. What it knows of each footage frame lies beside the model: mapped from there, it
    costs no memory of its own.
    """
    source = planned.source
    avatar = Resident(len(crops), source.mask, source.loop, facts.avatar_key)
    version = folder / planned.version
    version.mkdir()
    constants = f"{key_name(facts.avatar_key)}.crops"
    openvino = way.engine != ONNXRUNTIME
    write_networks(version, network, crops, avatar, source.blend, constants, openvino=openvino)
    write_network_config(planned.repository, folder, engine=way.engine, facts=facts)
    measured = replace(facts, memory_mb=stage_memory_mb(folder))
    write_network_config(planned.repository, folder, engine=way.engine, facts=measured)


def _head(source: AvatarSource, preset: str) -> onnx.ModelProto | None:
    if preset != "turbo":
        return None
    if not source.head:
        raise SourceError(f"{source.folder}: the preset turbo needs a head, which `lipsync avatars distil` trains")
    return source.network(source.head)


def _own_encoder(source: AvatarSource, repository: Path) -> onnx.ModelProto | None:
    """The encoder that the avatar was trained with; None if that is the one that all share."""
    if not source.encoder:
        return None
    encoder = served_encoder(source.network(source.encoder))
    shared = repository / SHARED_ENCODER / "1" / "model.onnx"
    return None if shared.exists() and onnx.load(shared) == encoder else encoder


def _version(encoder: onnx.ModelProto | None, preset: str) -> str:
    if encoder is None:
        return "2" if arithmetic_of(preset) == "INT8" else "1"
    digest = hashlib.sha256(encoder.SerializeToString(deterministic=True)).digest()
    return str(3 + int.from_bytes(digest[:6], "big"))


class _Footage:
    """An avatar's footage. The video is decoded once: whoever reads the frames leaves their face crops in `crops`."""

    def __init__(self, source: AvatarSource) -> None:
        self.boxes = source.read_boxes()
        self.crops: list[Picture] = []
        self._source = source

    def frames(self) -> Iterator[Picture]:
        """The frames, with a progress bar."""
        total, text = len(self.boxes), f"packing {self._source.id}"
        shown = track(self._source.frames(), total=total, description=text, transient=True, console=notes)
        for number, frame in enumerate(shown):
            if number < total:  # one too many is for the reader to refuse
                self.crops.append(face_crop(frame, self.boxes[number]))
            yield frame


def _content_key(packed: Path, network: onnx.ModelProto) -> int:
    """31 bits of a hash of everything that makes the avatar's pictures: OpenVINO keeps no more of an INT64."""
    digest = hashlib.sha256(network.SerializeToString(deterministic=True))
    for path in sorted(packed.iterdir()):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:4], "big") >> 1


def _free_key(key: int, network_name: str, repository: Path) -> int:
    """The key, or the next one that no other avatar has: one in two thousand million has it."""
    while any(path.parent.parent.name != network_name for path in repository.glob(f"*/avatar/{key_name(key)}")):
        key += 1
    return key


def _facts(planned: Plan, packed: Path, key: int) -> AvatarFacts:
    """What the config publishes of the avatar; its memory is not measured yet."""
    facts = PackedAvatar.open(packed).facts
    return AvatarFacts(
        preset=planned.preset,
        avatar_id=facts.id,
        avatar_key=key,
        audio_encoder="own" if planned.encoder is not None else encoder_mark(planned.repository),
        frame_width=facts.width,
        frame_height=facts.height,
        footage_frames=facts.frames,
        loop=facts.loop,
        memory_mb=0,
    )
