"""Makes everything in the model repository that is not written by hand, from the sources under avatars/.

    python scripts/build.py

    filterbank.npy (librosa)    audio_encoder's and the demo avatar's ONNX models    the demo avatar's packed footage

Rebuilt only when a source or the code that builds it has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import onnx
import stages
from avatar_source import AvatarSource
from filterbank import make_filterbank
from graphs import expand_weights, served_encoder
from lipsync_client.packed import hears_otherwise
from model_folders import INT8_ENCODER, SHARED_ENCODER, write_encoder
from package_avatar import package_avatar

SCRIPTS = Path(__file__).parent
AVATARS = stages.ROOT / "avatars"
STAMPS = ".build.json"


def build(repository: Path = stages.REPOSITORY, avatars: Path = AVATARS, report: Callable[[str], None] = print) -> None:
    """Bring a model repository up to date.

    Args:
        repository: the folder with the stages; it is written to.
        avatars: the folder with `audio_encoder/` and `demo/`.
        report: told of each step that is not up to date, and of avatars that must be packed again.

    Raises:
        SourceError, ValueError, OSError: a source is missing or broken.
    """
    demo, encoder = avatars / "demo", avatars / "audio_encoder" / "encoder.onnx"
    packing = [
        *_code("graphs", "package_avatar", "model_folders", "stage_trial", "avatar_source", "quantize"),
        *sorted((repository / "composite/1").glob("*.py")),
        repository / "lipsync/config.template.pbtxt",
    ]
    with (repository / ".build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # servers that start together build once

        filterbank = repository / "mel_preprocess/1/filterbank.npy"
        _step(
            repository, "mel filterbank", [filterbank], _code("filterbank"), lambda: make_filterbank(filterbank), report
        )

        served = repository / "audio_encoder/1/model.onnx"
        sources = [encoder, *_code("graphs")]
        _step(repository, "audio encoder", [served], sources, lambda: _build_encoder(encoder, served), report)

        _step(
            repository,
            "audio encoder in INT8",
            [repository / INT8_ENCODER / "1/model.onnx", repository / INT8_ENCODER / "config.pbtxt"],
            [encoder, stages.SAMPLE, repository / SHARED_ENCODER / "config.pbtxt", *_code("graphs", "quantize")],
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
        if says := hears_otherwise(repository, network.parent.name.removesuffix("_lipsync"), repository):
            report(says)


def _code(*modules: str) -> list[Path]:
    return [SCRIPTS / f"{module}.py" for module in modules]


def _build_encoder(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    onnx.save(served_encoder(onnx.load(source)), draft)
    draft.replace(path)


def _build_int8_encoder(source: Path, repository: Path) -> None:
    from quantize import quantize_encoder

    small = quantize_encoder(expand_weights(onnx.load(source)), repository, stages.read_sample())
    write_encoder(repository, INT8_ENCODER, served_encoder(small))


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
    report(f"building the {name}")
    make()
    path.write_text(json.dumps(stamps | {name: fingerprint}, indent=2))


if __name__ == "__main__":
    build()
