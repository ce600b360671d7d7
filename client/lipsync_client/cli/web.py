"""`lipsync web`: serves the web page."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lipsync_client import wire
from lipsync_client.aio import AsyncClient
from lipsync_client.cli.common import Access, Headers, Server, TokenFile, access
from lipsync_client.cli.marks import Unmarked
from lipsync_client.cli.voices import PiperVoices, VoiceModel, VoiceService, VoiceSpeaker, voices_of
from lipsync_client.client import Client
from lipsync_client.console import note
from lipsync_client.control.control import Control, find_key
from lipsync_client.errors import AvatarNotFound, LipsyncError
from lipsync_client.tls import check_certificate
from lipsync_client.voices.voices import Voices
from lipsync_client.web.faces import Faces
from lipsync_client.web.settings import Settings

__all__ = ["web"]

ASK_S = 3.0
ANSWER_S = 10.0  # seconds after which a waiting page reports that the server does not answer
DEFAULTS = Settings()

Offered = Annotated[
    list[str] | None,
    typer.Option("--avatar", help="An avatar to offer; repeat the option for more. [default: all]"),
]
Host = Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 serves other machines too.")]
Origins = Annotated[
    list[str] | None,
    typer.Option("--allow-origin", help="Another origin whose pages may connect, such as https://talk.example.org."),
]
MaxViewers = Annotated[
    int,
    typer.Option("--max-viewers", min=0, help="Viewers over WebRTC (/whep) at once, at most. Needs the extra webrtc."),
]
IceServers = Annotated[
    list[str] | None,
    typer.Option(
        "--ice-server", help="STUN server for such viewers, as stun:host:port. May be repeated. [default: none]"
    ),
]
PageToken = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="LIPSYNC_WEB_TOKEN",
        help="Token that pages must send. [default: none on a loopback address, else a random one]",
        show_default=False,
    ),
]


TlsCert = Annotated[
    Path | None, typer.Option(help="PEM file with a certificate: the page speaks https.", show_default=False)
]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file with the certificate's key.", show_default=False)]


def web(
    avatar: Offered = None,
    server: Server = wire.DEFAULT_URL,
    token_file: TokenFile = None,
    headers: Headers = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the page; 0: any free port.")] = 8080,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token: PageToken = None,
    allow_origin: Origins = None,
    max_sessions: Annotated[
        int, typer.Option("--max-sessions", min=1, help="Pages that are served at once, at most.")
    ] = (DEFAULTS.max_sessions),
    idle: Annotated[float, typer.Option("--idle", min=1, help="Seconds after which an unused page is paused.")] = (
        DEFAULTS.idle_s
    ),
    max_viewers: MaxViewers = DEFAULTS.max_viewers,
    ice_server: IceServers = None,
    voice_service: VoiceService = None,
    voice_model: VoiceModel = "tts-1",
    voice_speaker: VoiceSpeaker = "alloy",
    piper_voices: PiperVoices = None,
    unmarked: Unmarked = False,
) -> None:
    """Serve a page with a talking face: talk to it by microphone, file or text, and interrupt it.

    Start a lip-sync server first (`lipsync serve`). Then run `lipsync web` and open the address that it prints.
    The server loads an avatar when a page chooses it. Text needs a speech synthesiser on this machine
    (espeak-ng, flite, Piper) or a speech service. For other machines, run `lipsync web --host 0.0.0.0`. Browsers give
    the microphone only to https pages: give a certificate with --tls-cert and --tls-key, or use a proxy with TLS, or an
    SSH tunnel: `ssh -L 8080:localhost:8080 THIS_MACHINE`.
    """
    import websockets  # noqa: F401 (needed later, by uvicorn; if it is missing, say so before anything starts)

    from lipsync_client.web import app  # noqa: F401

    tls = _tls(tls_cert, tls_key)
    voices = voices_of(voice_service, voice_model, voice_speaker, piper_voices)
    allowed = access(token_file, headers)
    client = AsyncClient(server, timeout=ANSWER_S, **allowed)
    with _listen(host, port) as listening:
        address, port = listening.getsockname()[:2]
        loopback = ipaddress.ip_address(address).is_loopback
        if token is None and not loopback:
            token = secrets.token_urlsafe(16)
        limits: dict[str, Any] = {"max_sessions": max_sessions, "max_viewers": max_viewers, "idle_s": idle}
        origins, ice_servers = tuple(allow_origin or ()), tuple(ice_server or ())
        settings = Settings(token or None, origins, loopback, ice_servers=ice_servers, mark=not unmarked, **limits)
        if trouble := _trouble_with(server, allowed, avatar or ()):
            note(f"{trouble} The page waits for the server.")
        if voices is None:
            note("The page cannot speak text: install flite or espeak-ng, and start this again.")
        _announce(port, settings, "https" if tls else "http")
        with Control(server, timeout=ANSWER_S, **allowed) as control:
            faces = Faces(avatar or (), control if find_key(server) else None)
            _serve(listening, client, faces, voices, settings, tls)


def _tls(certificate: Path | None, key: Path | None) -> dict[str, str]:
    """uvicorn's options for TLS; none without a certificate. Raises LipsyncError."""
    if certificate is None and key is None:
        return {}
    if certificate is None or key is None:
        raise LipsyncError("--tls-cert and --tls-key belong together: give both, or neither.")
    check_certificate(certificate, key)
    return {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}


def _announce(port: int, settings: Settings, scheme: str) -> None:
    name = "localhost" if settings.loopback else socket.gethostname()
    secret = f"#token={settings.token}" if settings.token else ""
    typer.echo(f"Open {scheme}://{name}:{port}/{secret} (Ctrl-C stops)")


def _serve(
    listening: socket.socket,
    client: AsyncClient,
    faces: Faces,
    voices: Voices | None,
    settings: Settings,
    tls: dict[str, Any],
) -> None:
    import uvicorn

    from lipsync_client.web.app import create_app

    app = create_app(client, faces, voices=voices, settings=settings)
    config = uvicorn.Config(
        app,
        log_level="error",
        server_header=False,
        ws_max_size=256 << 10,  # of one message from a browser
        ws_per_message_deflate=False,  # JPEG does not compress further
        limit_concurrency=settings.max_sessions * 4 + 64,
        timeout_graceful_shutdown=2,
        **tls,
    )
    uvicorn.Server(config).run([listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise LipsyncError(
            f"Port {port} of {host} cannot be used ({error.strerror or error}): give another with --port or --host."
        ) from None


def _trouble_with(server: str, allowed: Access, offered: Sequence[str]) -> str | None:
    """Why the server cannot be used yet. Raises AvatarNotFound: it has no avatar of an offered name."""
    try:
        with Control(server, timeout=ASK_S, **allowed) as control:
            control.status()
            known = [one.id for one in control.avatars()] if find_key(server) else None
        if known is None:
            with Client(server, timeout=ASK_S, **allowed) as client:
                for name in offered:
                    client.avatar(name)
    except AvatarNotFound:
        raise
    except LipsyncError as error:
        return str(error)
    for name in offered:
        if known is not None and name not in known:
            raise AvatarNotFound(f"There is no avatar {name!r}: the server has {', '.join(known) or 'none'}.")
    return None
