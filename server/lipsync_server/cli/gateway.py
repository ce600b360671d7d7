"""`lipsync gateway`: the public ports before one or several Tritons."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipsync_client.console import note
from lipsync_client.registry.settings import RegistrySettings
from lipsync_client.settings import SettingsError, read_yaml

if TYPE_CHECKING:
    from lipsync_server.gateway.settings import GatewaySettings

__all__ = ["gateway"]

TlsCert = Annotated[str | None, typer.Option(help="PEM file with the certificate: all ports speak TLS.")]
TlsKey = Annotated[str | None, typer.Option(help="PEM file with the certificate's key.")]
TokensFile = Annotated[
    str | None, typer.Option(help="File of `lipsync token new`. [default: the user's own]", show_default=False)
]


def gateway(
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            "--upstream", help="host:port of a Triton's gRPC endpoint; repeat it for more.", show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with the sections `gateway` and `registry`, such as server.yaml.")
    ] = None,
    bind: Annotated[str | None, typer.Option(help="Address to answer on. [default: 127.0.0.1]")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="KServe v2 over gRPC; 0: any free one. [default: 8001]")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="KServe v2 over HTTP, health, metrics. [default: 8000]")
    ] = None,
    monolithic_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="monolithic.MonolithicService. [default: 50053]")
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option("--alias", help="NAME=AVATAR: another name of an avatar on the monolithic port; repeat it."),
    ] = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tokens: TokensFile = None,
) -> None:
    """Stand between callers and one or several Tritons: every request is checked before it reaches one.

    A request goes to the upstream that works on the fewest; after a failure it goes to the next. An upstream counts as
    ready when it has made a frame a moment ago, and is asked for one when nobody else asks. Avatars are loaded when
    they are asked for, where the control key is known: from LIPSYNC_CONTROL_KEY or the private file of `lipsync serve`,
    for upstreams on this machine.

    Example, with a server on other ports: `lipsync serve --grpc-port 9001 --http-port 9000`, then
    `lipsync gateway --upstream 127.0.0.1:9001`. Ctrl-C stops it; running requests get 5 seconds.
    """
    options = {
        "upstreams": tuple(upstream) if upstream else None,
        "bind": bind,
        "grpc_port": grpc_port,
        "http_port": http_port,
        "monolithic_port": monolithic_port,
        "aliases": _aliases(alias) if alias else None,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tokens": tokens,
    }
    from lipsync_server import open_files

    settings = _settings(config, {name: value for name, value in options.items() if value is not None})
    limits = RegistrySettings.from_yaml(config) if config else RegistrySettings()
    open_files.raise_limit()
    if advice := open_files.too_few(settings):
        note(advice)
    asyncio.run(_serve(settings, limits))


def _settings(config: Path | None, options: dict[str, Any]) -> GatewaySettings:
    """The options, and for others the file. Raises SettingsError."""
    from lipsync_server.gateway.settings import GatewaySettings

    values = read_yaml(config) if config else {}
    section = (values.get("gateway") if isinstance(values, dict) else values) or {}
    section = {} if section is True else section  # in server.yaml: `lipsync serve` has a gateway
    settings = GatewaySettings.from_dict({**section, **options} if isinstance(section, dict) else section)
    if f"{settings.bind}:{settings.grpc_port}" in settings.upstreams:
        raise SettingsError(
            f"The gateway cannot be its own upstream, {settings.bind}:{settings.grpc_port}: give another with "
            "--upstream, or answer at another --grpc-port."
        )
    return settings


def _aliases(given: list[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    if wrong := [one for one, (name, _, avatar) in zip(given, pairs, strict=True) if not (name and avatar)]:
        raise SettingsError(f"--alias is {wrong[0]!r}; allowed is NAME=AVATAR, such as sanders=demo.")
    return {name: avatar for name, _, avatar in pairs}


async def _serve(settings: GatewaySettings, limits: RegistrySettings) -> None:
    from lipsync_server.gateway.run import running

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(settings, limits) as (_, addresses):
        grpc, http = ("grpcs://", "https://") if settings.tls_cert else ("", "http://")
        typer.echo(
            f"Answering at grpc {grpc}{addresses.grpc}, http {http}{addresses.http}, "
            f"monolithic {grpc}{addresses.monolithic} "
            f"for {', '.join(settings.upstreams)} (Ctrl-C stops)"
        )
        await stop.wait()
