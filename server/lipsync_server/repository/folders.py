"""Writes the model folders of a repository: configs from their templates, encoders, and the shipped avatar's files."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import onnx

from lipsync_server.repository.source import SourceError

SHARED_ENCODER = "audio_encoder"
INT8_ENCODER = "audio_encoder_int8"  # the shared one for avatars in INT8
SHIPPED = ("lipsync", "lipsync_ensemble")  # the demo's models, and the templates of every other avatar's
ACCELERATORS = {  # by arithmetic on a CPU
    "FP32": "",  # ONNX Runtime is as fast as OpenVINO
    "INT8": '{ name: "openvino" }',
    "BF16": '{ name: "openvino" parameters { key: "precision" value: "BF16" } }',
}


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
    for path in (crops, draft / network / "1" / "model.onnx", draft / network / "config.pbtxt"):
        _place(path, repository / path.relative_to(draft))
    _write_if_changed(repository / ensemble / "config.pbtxt", (draft / ensemble / "config.pbtxt").read_text())
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


def _substitute(text: str, pattern: str, value: str) -> str:
    result, count = re.subn(pattern, lambda match: f"{match[1]}{value}{match[2]}", text, flags=re.MULTILINE)
    if count != 1:
        raise SourceError(f"the template config.pbtxt must have {pattern} once, it has it {count} times")
    return result


def network_config(repository: Path, name: str, *, arithmetic: str, facts: dict[str, str]) -> str:
    """The config.pbtxt of an avatar's network: the template with its name, its arithmetic on a CPU and its facts."""
    text = (repository / SHIPPED[0] / "config.template.pbtxt").read_text()
    text = _substitute(text, r'^(name: ")[^"]*(")', name)
    text = _substitute(text, r"(cpu_execution_accelerator: \[ ).*?( \])", ACCELERATORS[arithmetic])
    for key, value in facts.items():
        text = _substitute(text, rf'(key: "{key}"\s+value {{ string_value: ")[^"]*(")', value)
    return text


def write_encoder(
    repository: Path, name: str, encoder: onnx.ModelProto, into: Path | None = None, version: str = "1"
) -> None:
    """Write a served encoder as the model `name` into the folder `into`, the repository by default, configured as the
    shared one."""
    folder = (into or repository) / name
    (folder / version).mkdir(parents=True, exist_ok=True)
    draft = folder / version / "model.draft"
    onnx.save(encoder, draft)
    draft.replace(folder / version / "model.onnx")
    text = (repository / SHARED_ENCODER / "config.pbtxt").read_text()
    _write_if_changed(folder / "config.pbtxt", _substitute(text, r'^(name: ")[^"]*(")', name))


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
    """The ensemble's folder in `draft`: the shipped one's, with this network and encoder in its steps."""
    text = (repository / SHIPPED[1] / "config.pbtxt").read_text()
    text = _substitute(text, r'^(name: ")[^"]*(")', ensemble_name)
    own_encoder = encoder_name not in (SHARED_ENCODER, INT8_ENCODER)
    for role, name, pinned in (
        (SHIPPED[0], network_name, version),
        (f"{SHARED_ENCODER}(?:_int8)?", encoder_name, version if own_encoder else "-1"),
    ):
        text = _substitute(text, rf'(model_name: "{role}"\s+model_version: )-1()', pinned)
        text = _substitute(text, rf'(model_name: "){role}(")', name)
    (draft / ensemble_name / "1").mkdir(parents=True)
    (draft / ensemble_name / "config.pbtxt").write_text(text)


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        draft = path.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(path)


def _place(draft: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft.replace(path)
