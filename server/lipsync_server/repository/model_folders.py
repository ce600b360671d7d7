"""Writes the model folders of a repository: configs from their templates, encoders, and the shipped avatar's files."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from lipsync_client.avatar_facts import AvatarFacts
from lipsync_onnx.engines import ENTRIES
from lipsync_server.repository.source import SourceError

SHARED_ENCODER = "audio_encoder"
INT8_ENCODER = "audio_encoder_int8"  # the shared one for avatars in INT8
SHIPPED = ("lipsync", "lipsync_ensemble")  # the demo's models, and the templates of every other avatar's


def place_shipped(draft: Path, repository: Path) -> None:
    """The shipped avatar's folders hold committed files too, so its files are replaced one by one."""
    network, ensemble = SHIPPED
    (assets,) = (draft / network / "avatar").iterdir()
    target = repository / network / "avatar" / assets.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        assets.rename(target)
    target.touch()  # the newest version, also where it was here before
    (crops,) = (draft / network / "1").glob("*.crops")
    version = draft / network / "1"
    for path in (crops, version / "whole.onnx", version / "model.onnx", draft / network / "config.pbtxt"):
        _place(path, repository / path.relative_to(draft))
    _write_config(repository / ensemble / "config.pbtxt", read_config(draft / ensemble / "config.pbtxt"))
    _place(draft / "visual.onnx", repository / "lipsync_visual" / "1" / "model.onnx")
    _remove_all_but_two(target.parent.iterdir())
    _remove_all_but_two((repository / network / "1").glob("*.crops"))


def _remove_all_but_two(versions: Iterable[Path]) -> None:
    """Keep the newest and the one before it, which a running server may still serve until it loads the new one."""
    for old in sorted(versions, key=lambda path: path.stat().st_mtime)[:-2]:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()


def read_config(path: Path) -> ModelConfig:
    """A config.pbtxt. Raises SourceError if it is none."""
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise SourceError(f"{path} is not a model config: {error}") from None


def _write_config(path: Path, config: ModelConfig) -> None:
    """Write a config where its meaning changed: a committed one keeps its comments, and Triton is told of no change."""
    if not path.exists() or read_config(path) != config:
        draft = path.with_suffix(".draft")
        draft.write_text(text_format.MessageToString(config), encoding="utf-8")
        draft.replace(path)


def write_network_config(repository: Path, folder: Path, *, engine: str, facts: AvatarFacts) -> None:
    """Write the config of an avatar's network into its folder: the template, its engine on a CPU and its facts."""
    config = read_config(repository / SHIPPED[0] / "config.template.pbtxt")
    config.name = folder.name
    accelerators = config.optimization.execution_accelerators.cpu_execution_accelerator
    del accelerators[:]
    for entry in ENTRIES[engine]:
        accelerators.add(**entry)
    config.parameters.clear()
    for name, value in facts.to_parameters().items():
        config.parameters[name].string_value = value
    _write_config(folder / "config.pbtxt", config)


def write_encoder(
    repository: Path, name: str, encoder: onnx.ModelProto, into: Path | None = None, version: str = "1"
) -> None:
    """Write a served encoder as the model `name` into the folder `into`, the repository by default, configured as the
    shared one.
    """
    folder = (into or repository) / name
    (folder / version).mkdir(parents=True, exist_ok=True)
    draft = folder / version / "model.draft"
    onnx.save(encoder, draft)
    draft.replace(folder / version / "model.onnx")
    config = read_config(repository / SHARED_ENCODER / "config.pbtxt")
    config.name = name
    _write_config(folder / "config.pbtxt", config)


def encoder_mark(repository: Path) -> str:
    """Which audio encoder the repository's avatars share: a hash of its weights, or "none"."""
    path = repository / SHARED_ENCODER / "1" / "model.onnx"
    if not path.exists():
        return "none"
    digest = hashlib.sha256()
    for tensor in onnx.load(path).graph.initializer:
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()[:12]


def write_ensemble(
    repository: Path, draft: Path, ensemble_name: str, network_name: str, encoder_name: str, version: str
) -> None:
    """The ensemble's folder in `draft`: the shipped one's, with this network and encoder in its steps.

    Args:
        version: of the network and of an own encoder; "-1" for the newest.
    """
    config = read_config(repository / SHIPPED[1] / "config.pbtxt")
    config.name = ensemble_name
    for step in config.ensemble_scheduling.step:
        if "mouth" in step.output_map:
            step.model_name, step.model_version = network_name, int(version)
        elif "audio_features" in step.output_map:
            own = encoder_name not in (SHARED_ENCODER, INT8_ENCODER)
            step.model_name, step.model_version = encoder_name, int(version) if own else -1
    (draft / ensemble_name / "1").mkdir(parents=True)
    _write_config(draft / ensemble_name / "config.pbtxt", config)


def _place(draft: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft.replace(path)
