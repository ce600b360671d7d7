"""The model repository: what it must hold, and configs that differ from its `config.pbtxt` files.

`--model-config-name=NAME` makes Triton read `<model>/configs/NAME.pbtxt` where it exists, else `config.pbtxt`.
For GPUs NAME is `cuda` or `tensorrt` (`lipsync gpu-models` writes them). With other instance counts it is a hash of
them, so servers with different counts on one repository keep their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lipsync_server.serving.errors import ConfigError, ServingError
from lipsync_server.serving.leftovers import running_arguments

PREFIX = "serve-"


def check_models(repository: Path, load: tuple[str, ...]) -> None:
    """Refuse a repository that is empty or lacks a model to load.

    Raises:
        ServingError: says what the repository holds.
    """
    if not repository.is_dir():
        raise ServingError(f"There is no model repository at {repository}: give its folder with --repository.")
    found = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    if not found:
        raise ServingError(
            f"{repository} holds no models (no <model>/config.pbtxt): `lipsync build` makes those of the default one."
        )
    for model in load:
        if model not in found:
            raise ServingError(
                f"The model {model!r} is not in {repository}, which holds {', '.join(found)}: "
                "change `load` in server.yaml, or make it with `lipsync build`."
            )


def write_configs(repository: Path, instances: Mapping[str, int], gpu_configs: str | None = None) -> str | None:
    """Write configs for the models whose count differs; returns NAME, or None if no model needs one.

    `gpu_configs` names the configs to start from, where a model has them.

    Files are touched only where their content changes: Triton reloads a model whose folder did.

    Raises:
        ConfigError: a count for a model that is not in the repository, or for an ensemble; GPU configs that are not
            there.
    """
    ready = sorted(repository.glob(f"*/configs/{gpu_configs}.pbtxt")) if gpu_configs else []
    if gpu_configs and not ready:
        raise ConfigError(
            f"gpu_configs is {gpu_configs}, but {repository} has no such configs: "
            f"`lipsync gpu-models --repository {shlex.quote(str(repository))}` writes them."
        )
    wish = json.dumps([gpu_configs, sorted(instances.items())])
    name = PREFIX + hashlib.sha256(wish.encode()).hexdigest()[:12]
    wanted = {}
    for model, count in instances.items():
        text = _with_count(repository, model, count, gpu_configs)
        if text is not None:
            wanted[repository / model / "configs" / f"{name}.pbtxt"] = text
    if wanted:
        wanted = {path.with_name(f"{name}.pbtxt"): path.read_text() for path in ready} | wanted
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
    return name if wanted else gpu_configs


def _with_count(repository: Path, model: str, count: int, gpu_configs: str | None) -> str | None:
    path = repository / model / "configs" / f"{gpu_configs}.pbtxt"
    if not path.exists():
        path = repository / model / "config.pbtxt"
    if not path.exists():
        raise ConfigError(f"instances.{model}: {repository} has no model of that name.")
    try:
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ServingError(f"{path} is not a model config: {error}.") from None
    if config.HasField("ensemble_scheduling"):
        raise ConfigError(f"instances.{model}: an ensemble has no instances; give counts to its steps.")
    groups = config.instance_group or [config.instance_group.add()]
    if all(group.count == count for group in groups):
        return None
    for group in groups:
        group.count = count
    return text_format.MessageToString(config)
