"""Makes everything in the model repository that is not written by hand, from the sources under avatars/.

    audio_encoder's and the demo avatar's ONNX models    the demo avatar's packed footage

Rebuilt only when a source or the code that builds it has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import onnx

from lipsync_client import avatar_facts
from lipsync_client.avatar_file.install import encoder_mismatch
from lipsync_client.console import note
from lipsync_client.errors import LipsyncError
from lipsync_client.locks import locked
from lipsync_composite import assets, avatar, geometry, loop, mark, paste, segments, splice
from lipsync_mel import mel, timeline
from lipsync_server import home
from lipsync_server.networks import constants, graphs, head, quantize, resident, unet_graphs, window
from lipsync_server.repository import (
    avatar_int8,
    engine_trial,
    model_folders,
    package,
    presets,
    source,
    trial,
    visual_half,
)
from lipsync_server.repository.model_folders import INT8_ENCODER, SHARED_ENCODER, write_encoder
from lipsync_server.repository.package import package_avatar
from lipsync_server.repository.source import AvatarSource

# The code that each step's output depends on.
ENCODER_CODE = (graphs, geometry)
INT8_ENCODER_CODE = (*ENCODER_CODE, quantize, model_folders, source, avatar_facts, mel, timeline)
AVATAR_CODE = (
    *(*INT8_ENCODER_CODE, constants, head, resident, unet_graphs, window),
    *(avatar_int8, engine_trial, package, presets, trial, visual_half),
    *(assets, avatar, loop, mark, paste, segments, splice),
)
STAMPS = ".build.json"


def build(repository: Path | None = None, avatars: Path = home.AVATARS, report: Callable[[str], None] = note) -> None:
    """Bring a model repository up to date.

    Args:
        repository: the folder with the stages; the default repository if absent. Written only where something is to
            be built.
        avatars: the folder with `audio_encoder/` and `demo/`.
        report: told of each step that is not up to date, and of avatars that must be packed again; by default, a note
            on standard error.

    Raises:
        SourceError, ValueError, OSError: a source is missing or broken.
        LipsyncError: something is to be built, and the repository cannot be written.
    """
    repository = repository or home.repository()
    demo, encoder = avatars / "demo", avatars / "audio_encoder" / "encoder.onnx"
    packing = [
        *_code(AVATAR_CODE),
        repository / "lipsync/config.template.pbtxt",
    ]
    with _alone(repository):
        served = repository / "audio_encoder/1/model.onnx"
        sources = [encoder, *_code(ENCODER_CODE)]
        _step(repository, "audio encoder", [served], sources, lambda: _build_encoder(encoder, served), report)

        _step(
            repository,
            "audio encoder in INT8",
            [repository / INT8_ENCODER / "1/model.onnx", repository / INT8_ENCODER / "config.pbtxt"],
            [encoder, home.SAMPLE, repository / SHARED_ENCODER / "config.pbtxt", *_code(INT8_ENCODER_CODE)],
            lambda: _build_int8_encoder(encoder, repository),
            report,
        )

        outputs = [repository / f"{name}/1/model.onnx" for name in ("lipsync", "lipsync_visual")]
        sources = [encoder, *sorted(path for path in demo.iterdir() if path.is_file()), *packing]
        _step(
            repository,
            "demo avatar",
            [*outputs, repository / "lipsync/avatar", repository / "lipsync/config.pbtxt"],
            sources,
            lambda: package_avatar(AvatarSource.read(demo), repository, shipped=True),
            report,
        )
    for network in sorted(repository.glob("*_lipsync/config.pbtxt")):
        if message := encoder_mismatch(repository, network.parent.name.removesuffix("_lipsync"), repository):
            report(message)


@contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """Servers that start together build once. Where nothing can be written, nothing is built: no lock is needed."""
    if not os.access(repository, os.W_OK):
        yield
        return
    with locked(repository / ".build.lock"):
        yield


def _code(modules: Iterable[ModuleType]) -> list[Path]:
    return [Path(str(module.__file__)) for module in modules]


def _build_encoder(network: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    onnx.save(graphs.served_encoder(onnx.load(network)), draft)
    draft.replace(path)


def _build_int8_encoder(network: Path, repository: Path) -> None:
    small = quantize.quantize_encoder(graphs.expand_weights(onnx.load(network)), repository, home.read_sample())
    write_encoder(repository, INT8_ENCODER, graphs.served_encoder(small))


def _fingerprint(sources: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _step(
    repository: Path,
    name: str,
    outputs: list[Path],
    sources: list[Path],
    make: Callable[[], object],
    report: Callable[[str], None],
) -> None:
    """Run `make` unless its outputs are there and were made from these very sources."""
    path = repository / STAMPS
    stamps = json.loads(path.read_text()) if path.exists() else {}
    fingerprint = _fingerprint(sources)
    if stamps.get(name) == fingerprint and all(output.exists() for output in outputs):
        return
    if not os.access(repository, os.W_OK):
        raise LipsyncError(
            f"{repository} cannot be written, and its {name} is to be built: name a folder of yours with `--home`."
        )
    report(f"building the {name}")
    make()
    path.write_text(json.dumps(stamps | {name: fingerprint}, indent=2))
