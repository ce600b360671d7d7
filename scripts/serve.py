"""Serve the model repository with the Triton server from the `nvidia-pytriton` wheel.

    python scripts/serve.py

Settings are in `server.yaml`. Ctrl-C or SIGTERM stops the server and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from serving import ServerConfig, ServerError, TritonServer

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = ROOT / "model_repository"
START_TIMEOUT = 600  # seconds; a GPU may compile its networks
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked the server to stop."""


def main() -> int:
    options = parse_options()
    try:
        for number in STOP_SIGNALS:
            signal.signal(number, _on_stop_signal)  # SIGINT too where a shell ignores it for background programs
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, _on_stop_signal)
        config = with_ports(ServerConfig.from_yaml(options.config), options)
        if options.repository == REPOSITORY:
            build_models()
        with TritonServer(options.repository, config, echo=True).start(START_TIMEOUT) as server:
            announce(server)
            return watch(server)
    except (ServerError, OSError) as error:  # an OSError names its file
        print(f"serve: {error}", file=sys.stderr)
        return 1
    except Stopped:
        return 0


def build_models() -> None:
    """Make what is missing in this checkout's repository; others are served as they are.

    Raises:
        ServerError: a source is missing or broken, or a library for building.
    """
    try:  # imported here: serving finished models elsewhere needs none of this
        from avatar_source import SourceError
        from build import build
    except ImportError as error:
        raise ServerError(f"{error}, which building the models needs: `pip install -e '.[server]'`.") from None
    try:
        build(REPOSITORY)
    except (SourceError, ValueError, OSError) as error:
        raise ServerError(f"The models cannot be built: {error}") from error


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve the model repository with an embedded Triton server.")
    parser.add_argument("--config", type=Path, default=ROOT / "server.yaml", help="settings (default: %(default)s)")
    parser.add_argument(
        "--repository",
        type=Path,
        default=REPOSITORY,
        help="folder of models; what is missing in the default one is built first (default: %(default)s)",
    )
    for name in ("http", "grpc", "metrics"):
        parser.add_argument(
            f"--{name}-port", type=int, help=f"instead of ports.{name} in the settings; 0: any free one"
        )
    options = parser.parse_args()
    options.repository = options.repository.resolve()
    return options


def with_ports(config: ServerConfig, options: argparse.Namespace) -> ServerConfig:
    given = {name: getattr(options, f"{name}_port") for name in ("http", "grpc", "metrics")}
    ports = dataclasses.replace(config.ports, **{name: port for name, port in given.items() if port is not None})
    return dataclasses.replace(config, ports=ports)


def announce(server: TritonServer) -> None:
    for name, reason in server.failures.items():
        print(f"serve: {name} cannot be served: {reason}.", file=sys.stderr)
    if not server.key_hidden:
        print("serve: other users of this machine can read the control key in the process list.", file=sys.stderr)
    served = ", ".join(name for name in server.config.load if name not in server.failures)
    print(
        f"Serving {served} at grpc {server.grpc_url}, http http://{server.http_url}, metrics {server.metrics_url} "
        f"(log {server.log_path}; Ctrl-C stops)",
        flush=True,
    )


def watch(server: TritonServer) -> int:
    """Wait until the server ends, which is never on its own account unless something is wrong."""
    while server.exit_status is None:
        time.sleep(0.5)
    raise ServerError(
        f"The server ended by itself (exit status {server.exit_status}); "
        f"its last lines, also in {server.log_path}:\n{server.last_lines()}"
    )


def _on_stop_signal(number: int, frame: FrameType | None) -> None:
    for each in (*STOP_SIGNALS, signal.SIGHUP):  # stopping takes seconds; further signals must not interrupt it
        signal.signal(each, signal.SIG_IGN)
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
