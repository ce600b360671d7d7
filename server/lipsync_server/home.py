"""Where the product's own files are: in a checkout the checkout's, else what the wheel carries and the user's home.

What is only read (avatars' sources, the backend, the sample, the settings) is read where it is installed. The model
repository is written when models are built, so outside a checkout it is laid out in the user's home.
"""

from __future__ import annotations

import hashlib
import json
import os
import wave
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipsync_client.folders import data_folder

SHIPPED = Path(str(files("lipsync_server"))) / "shipped"  # in a checkout: links to the checkout's own folders
IN_CHECKOUT = (SHIPPED / "model_repository").is_symlink()
AVATARS = (SHIPPED / "avatars").resolve()
BACKENDS = (SHIPPED / "backends").resolve()
SAMPLE = (SHIPPED / "samples" / "speech.wav").resolve()
SETTINGS = (SHIPPED / "server.yaml").resolve()
MODELS = (
    "audio_encoder",
    "composite",
    "lipsync",
    "lipsync_ensemble",
    "lipsync_visual",
    "lipsync_visual_ensemble",
    "mel_preprocess",
)
STAGES = {"composite": "lipsync_composite", "mel_preprocess": "lipsync_mel"}  # the package beside each adapter
STAMPS = ".shipped.json"


def read_sample() -> NDArray[np.float32]:
    """The project's speech sample, a real person reading: FP32 [113600], mono at 16 kHz."""
    with wave.open(str(SAMPLE)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def repository_folder() -> Path:
    """Where the default repository is, laid out or not: in `$LIPSYNC_HOME`, the checkout, or the user's data folder."""
    given = os.environ.get("LIPSYNC_HOME")
    if IN_CHECKOUT and not given:
        return (SHIPPED / "model_repository").resolve()
    return (Path(given) if given else data_folder()).resolve() / "model_repository"


def repository() -> Path:
    """The default model repository, laid out.

    Outside a checkout it is made on first use and brought up to date after an upgrade; models are built by
    `lipsync_server.repository.build`. Nothing is written where nothing has changed.

    Raises:
        LipsyncError, OSError: the home cannot be written.
    """
    folder = repository_folder()
    if folder != (SHIPPED / "model_repository").resolve():
        _lay_out(folder)
    return folder


def _lay_out(folder: Path) -> None:
    """Copy what this installation carries for a model repository, where it has changed since the last time."""
    stamps: dict[str, str] = {}
    if (folder / STAMPS).exists():
        stamps = json.loads((folder / STAMPS).read_text(encoding="utf-8"))
    current = {}
    for name, source in _carried():
        content = source.read_bytes()
        current[name] = hashlib.sha256(content).hexdigest()
        if stamps.get(name) != current[name] or not (folder / name).exists():
            _write(folder / name, content)
    if stamps == current:
        return
    for name in stamps.keys() - current.keys():
        (folder / name).unlink(missing_ok=True)
    for model in MODELS:
        (folder / model / "1").mkdir(exist_ok=True)  # Triton wants a version of an ensemble too
    _write(folder / STAMPS, json.dumps(current, indent=1).encode())


def _carried() -> Iterator[tuple[str, Path]]:
    """The hand-written files of a model repository: their names in it, and where they are."""
    for model in MODELS:
        source = SHIPPED / "model_repository" / model
        template = source / "config.template.pbtxt"  # its config.pbtxt is built
        for path in (template if template.exists() else source / "config.pbtxt", source / "1" / "model.py"):
            if path.exists():
                yield f"{model}/{path.relative_to(source)}", path
    for model, name in STAGES.items():
        package = Path(str(files(name)))
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{model}/1/{name}/{path.relative_to(package)}", path


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)
