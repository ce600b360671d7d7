"""The server's command line."""

from __future__ import annotations

from pathlib import Path

from lipsync_server.serving.control_key import HEADER, RESTRICTED
from lipsync_server.serving.server_settings import Ports, ServerConfig


def server_arguments(
    config: ServerConfig,
    *,
    ports: Ports,
    repository: Path,
    backends: Path,
    key: str,
    shared_memory: str,
    config_name: str | None,
    with_gpu: bool,
) -> list[str]:
    """Options for `tritonserver` 2.51.

    The sizes of the Python backend's shared memory stay Triton's (1 MiB, growing by 1 MiB): larger ones made
    requests of 0.06 to 78 MB no faster, and every stage takes all of its first size at once.
    """
    options: dict[str, object] = {
        "model-repository": repository,
        "backend-directory": backends,
        "model-control-mode": "explicit",
        "exit-on-error": "false",  # a broken avatar must not stop the others
        "strict-readiness": "false",
        "exit-timeout-secs": config.exit_timeout,
        "http-address": config.bind,
        "http-port": ports.http,
        "grpc-address": config.bind,
        "grpc-port": ports.grpc,
        "metrics-address": config.bind,
        "metrics-port": ports.metrics,
        "grpc-restricted-protocol": f"{RESTRICTED}:{HEADER}={key}",
        "http-restricted-api": f"{RESTRICTED}:{HEADER}={key}",
        "log-info": _flag(config.log in ("info", "verbose")),
        "log-warning": _flag(config.log != "error"),
        "log-verbose": int(config.log == "verbose"),
        "backend-config": f"python,shm-region-prefix-name={shared_memory}",
    }
    if not with_gpu:
        options |= {"allow-gpu-metrics": "false", "pinned-memory-pool-byte-size": 0}
    if config_name:
        options["model-config-name"] = config_name
    return [
        *(f"--{option}={value}" for option, value in options.items()),
        # Configs here are complete, and completing them costs every Python stage a process and 1.5 s more to start.
        "--disable-auto-complete-config",
        *(f"--load-model={model}" for model in config.load),
    ]


def _flag(value: bool) -> str:
    return "true" if value else "false"
