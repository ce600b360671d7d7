"""`lipsync serve`: serves the model repository with the Triton of the `nvidia-pytriton` wheel."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from lipsync_client.console import note
from lipsync_server import home, open_files
from lipsync_server.serving import ServerConfig, ServingError, Supervisor
from lipsync_server.serving.environment import check_installed, shared_memory_trouble

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked the server to stop."""


def serve(
    config: Annotated[Path, typer.Option(help="The settings, as in server.yaml.")] = home.SETTINGS,
    repository: Annotated[
        Path | None, typer.Option(help="The model repository. Only the default one is built first.")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Instead of ports.http in the settings; 0: any free port.")
    ] = None,
    grpc_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Instead of ports.grpc.")] = None,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Instead of ports.metrics.")] = None,
    monolithic_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Instead of ports.monolithic.")] = None,
) -> None:
    """Build what is missing, then serve until Ctrl-C or SIGTERM.

    When the server, one of its stages or the gateway ends, it is started again.
    """
    try:
        for number in STOP_SIGNALS:
            signal.signal(number, _on_stop_signal)  # SIGINT too where a shell ignores it for background programs
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, _on_stop_signal)
        settings = ServerConfig.from_yaml(config)
        given = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port, "monolithic": monolithic_port}
        ports = dataclasses.replace(settings.ports, **{name: port for name, port in given.items() if port is not None})
        settings = dataclasses.replace(settings, ports=ports)
        if repository is None or repository.resolve() == home.repository_folder():
            repository = _built()
        open_files.raise_limit()  # Triton inherits it
        with Supervisor(repository, settings, report=note) as supervisor:
            announce(supervisor.start())
            supervisor.run()
    except Stopped:
        return


def _built() -> Path:
    """The default repository, with what was missing in it; others are served as they are. Raises ServingError."""
    from lipsync_server.repository.build import build

    try:
        check_installed()
        repository = home.repository()
        build(repository)
    except (ValueError, OSError) as error:
        raise ServingError(f"The models cannot be built: {error}") from error
    return repository


def announce(supervisor: Supervisor) -> None:
    server, ports = supervisor.triton, supervisor.ports
    assert server is not None
    for name, reason in server.failures.items():
        note(f"{name} cannot be served: {reason}.")
    if server.gpu_advice:
        note(server.gpu_advice)
    if not server.key_hidden:
        note("other users of this machine can read the control key in the process list.")
    if trouble := shared_memory_trouble():
        note(trouble)
    served = ", ".join(name for name in server.config.load if name not in server.failures)
    host = "127.0.0.1" if supervisor.config.bind == "0.0.0.0" else supervisor.config.bind  # noqa: S104
    http, rest = f"http://{host}:{ports.http}", f"metrics {server.metrics_url}"
    if supervisor.gateway:
        http = supervisor.gateway.url
        rest = f"monolithic {host}:{ports.monolithic}, metrics {http}/metrics"
    print(
        f"Serving {served} at grpc {host}:{ports.grpc}, http {http}, {rest} (log {supervisor.log_path}; Ctrl-C stops)",
        flush=True,
    )


def _on_stop_signal(number: int, frame: FrameType | None) -> None:
    for each in (*STOP_SIGNALS, signal.SIGHUP):  # stopping takes seconds; further signals must not interrupt it
        signal.signal(each, signal.SIG_IGN)
    raise Stopped
