"""The server's command line."""

from __future__ import annotations

from pathlib import Path

from lipsync_server.serving.control_key import HEADER, INFERENCE_HEADER, RESTRICTED
from lipsync_server.serving.server_settings import Ports, ServerConfig


def server_arguments(
    config: ServerConfig,
    *,
    ports: Ports,
    repository: Path,
    backends: Path,
    key: str,
    inference_key: str | None,
    shared_memory: str,
    config_name: str | None,
    with_gpu: bool,
) -> list[str]:
    """Options for `tritonserver` 2.51.

    With an inference key there is no HTTP port, and inference over gRPC needs that key.

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
        "grpc-address": config.bind,
        "grpc-port": ports.grpc,
        "grpc-infer-allocation-pool-size": 0,  # requests that are kept for reuse, 8 as shipped, each of up to 120 MB
        "metrics-address": config.bind,
        "metrics-port": ports.metrics,
        "log-info": _flag(config.log in ("info", "verbose")),
        "log-warning": _flag(config.log != "error"),
        "log-verbose": int(config.log == "verbose"),
        "backend-config": f"python,shm-region-prefix-name={shared_memory}",
    }
    if inference_key is None:
        options |= {
            "http-address": config.bind,
            "http-port": ports.http,
            "http-restricted-api": f"{RESTRICTED}:{HEADER}={key}",
        }
    else:
        options["allow-http"] = "false"
    if not with_gpu:
        options |= {"allow-gpu-metrics": "false", "pinned-memory-pool-byte-size": 0}
    if config_name:
        options["model-config-name"] = config_name
    return [
        *(f"--{option}={value}" for option, value in options.items()),
        f"--grpc-restricted-protocol={RESTRICTED}:{HEADER}={key}",
        *([f"--grpc-restricted-protocol=inference:{INFERENCE_HEADER}={inference_key}"] if inference_key else []),
        # Configs here are complete, and completing them costs every Python stage a process and 1.5 s more to start.
        "--disable-auto-complete-config",
        *(f"--load-model={model}" for model in config.load),
    ]


def _flag(value: bool) -> str:
    return "true" if value else "false"
