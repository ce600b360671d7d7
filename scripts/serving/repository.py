"""The model repository: what it must hold, and instance counts that differ from its configs.

`--model-config-name=NAME` makes Triton read `<model>/configs/NAME.pbtxt` where it exists, else `config.pbtxt`.
NAME is a hash of the counts, so servers with different counts on one repository keep their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from serving.errors import ConfigError, ServerError
from serving.leftovers import running_arguments

PREFIX = "serve-"


def check_models(repository: Path, load: tuple[str, ...]) -> None:
    """Refuse a repository that is empty or lacks a model to load.

    Raises:
        ServerError: says what the repository holds.
    """
    if not repository.is_dir():
        raise ServerError(f"There is no model repository at {repository}: give its folder with --repository.")
    found = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not found:
        raise ServerError(f"{repository} holds no models (no <model>/config.pbtxt): `make build` makes them.")
    for model in load:
        if model not in found:
            raise ServerError(
                f"The model {model!r} is not in {repository}, which holds {', '.join(found)}: "
                "change `load` in server.yaml, or make it with `make build`."
            )


def write_configs(repository: Path, instances: Mapping[str, int]) -> str | None:
    """Write configs for the models whose count differs; returns NAME, or None if no model needs one.

    Files are touched only where their content changes: Triton reloads a model whose folder did.

    Raises:
        ConfigError: a count for a model that is not in the repository, or for an ensemble.
    """
    name = PREFIX + hashlib.sha256(json.dumps(sorted(instances.items())).encode()).hexdigest()[:12]
    wanted = {}
    for model, count in instances.items():
        text = _with_count(repository, model, count)
        if text is not None:
            wanted[repository / model / "configs" / f"{name}.pbtxt"] = text
    in_use = running_arguments()
    for path in repository.glob(f"*/configs/{PREFIX}*.pbtxt"):
        if path not in wanted and f"--model-config-name={path.stem}" not in in_use:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: someone else's configs
                path.parent.rmdir()
    for path, text in wanted.items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return name if wanted else None


def _with_count(repository: Path, model: str, count: int) -> str | None:
    path = repository / model / "config.pbtxt"
    if not path.exists():
        raise ConfigError(f"instances.{model}: {repository} has no model of that name.")
    try:
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ServerError(f"{path} is not a model config: {error}.") from None
    if config.HasField("ensemble_scheduling"):
        raise ConfigError(f"instances.{model}: an ensemble has no instances; give counts to its steps.")
    groups = config.instance_group or [config.instance_group.add()]
    if all(group.count == count for group in groups):
        return None
    for group in groups:
        group.count = count
    return text_format.MessageToString(config)
