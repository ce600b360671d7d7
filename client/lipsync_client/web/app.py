"""The page, its WebSocket and the HTTP interface as an ASGI application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from lipsync_client.aio import AsyncClient
from lipsync_client.errors import LipsyncError
from lipsync_client.live.frame import Clock, LoopClock
from lipsync_client.voices.voices import Voices
from lipsync_client.web.api import Api
from lipsync_client.web.connection import Connection
from lipsync_client.web.faces import Faces
from lipsync_client.web.footage import FootageFiles
from lipsync_client.web.protocol import Close, Refused
from lipsync_client.web.settings import Settings
from lipsync_client.web.whep import Whep
from lipsync_client.web.words import for_visitors

__all__ = ["create_app"]

PAGE = Path(__file__).with_name("page")
ELEMENT = Path(__file__).with_name("element")
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
HEADERS = {
    # Everything comes from here: no inline script or style, no other host. `blob:` is a picture that the page made.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def create_app(
    client: AsyncClient,
    faces: Faces,
    *,
    voices: Voices | None = None,
    settings: Settings | None = None,
    clock: Clock | None = None,
) -> ASGIApp:
    """The application.

    Args:
        client: the lip-sync server, shared by all connections; closed when the application ends.
        faces: the avatars that are offered.
        voices: speak text; None where there is no synthesiser.
        settings: limits; the defaults if None.
        clock: of the live sessions; the event loop's own if None.
    """
    settings = settings or Settings()
    site = Site(client, faces, voices, settings, clock or LoopClock())
    api = Api(client, faces, voices, settings)
    whep = Whep(client, faces, voices, settings, clock or LoopClock())

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with client:
            try:
                yield
            finally:
                await whep.close()

    footage = FootageFiles(client, faces, site.settings)
    routes = [
        WebSocketRoute("/live", site.connect),
        Route("/footage/{avatar}/{key}/{first:int}-{last:int}", footage.serve),
        Route("/poster", footage.serve_poster),
        *api.routes,
        *whep.routes,
        Mount("/element", StaticFiles(directory=ELEMENT)),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), site.settings)


class Site:
    """What the connections of one application share."""

    def __init__(
        self, client: AsyncClient, faces: Faces, voices: Voices | None, settings: Settings, clock: Clock
    ) -> None:
        self.settings = settings
        self._client, self._faces, self._voices, self._clock = client, faces, voices, clock
        self._sessions = 0

    async def connect(self, socket: WebSocket) -> None:
        """Serve one browser."""
        await socket.accept()
        connection = Connection(socket, self.settings, self._clock)
        with contextlib.suppress(WebSocketDisconnect):
            try:
                hello = await connection.hello()
                if self._sessions >= self.settings.max_sessions:
                    places = self.settings.max_sessions
                    text = f"{places} of {places} places are taken; the page tries again by itself."
                    raise Refused("full", text, Close.TRY_LATER)
                self._sessions += 1
                try:
                    await connection.serve(hello, self._client, self._faces, self._voices)
                finally:
                    self._sessions -= 1
            except Refused as refusal:
                await connection.refuse(refusal)
            except LipsyncError as failure:
                await connection.refuse(Refused("failed", for_visitors(failure), Close.TRY_LATER))


class Guard:
    """Keeps other sites' pages out, but those that are allowed, and adds the security headers."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        ancestors = " ".join(settings.allow_origins) or "'none'"
        self._headers = {name: value.replace("{ancestors}", ancestors) for name, value in HEADERS.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), headers.get("origin"))
            await send(message)

        headers = Headers(scope=scope)
        works = scope["type"] == "websocket" or scope.get("method") not in ("GET", "HEAD")
        refusal = self._refusal(headers, works)
        if refusal is None and scope.get("method") == "OPTIONS":  # may a page of another origin send its token?
            return await Response(status_code=204)(scope, receive, send_with_headers)
        if refusal is None:
            return await self._app(scope, receive, send_with_headers)
        if scope["type"] == "websocket":  # before it is accepted: the answer is 403
            return await send({"type": "websocket.close", "code": 1008})
        return await PlainTextResponse(refusal, 403)(scope, receive, send_with_headers)

    def _add_headers(self, headers: MutableHeaders, origin: str | None) -> None:
        for name, value in self._headers.items():
            headers.setdefault(name, value)
        if not self._settings.allow_origins:
            return
        headers.add_vary_header("Origin")
        if origin in self._settings.allow_origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
            headers["Access-Control-Allow-Methods"] = "GET, POST, PATCH, DELETE"
            headers["Access-Control-Expose-Headers"] = "Location, Link, Lipsync-Frames"
            headers["Access-Control-Max-Age"] = "600"
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"

    def _refusal(self, headers: Headers, works: bool) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._settings.loopback and _address(f"//{host}")[0] not in LOOPBACK:
            # Another site's name that leads to 127.0.0.1: its page would count as ours.
            return "This server answers to localhost only: open it by that name, or start it with --host.\n"
        if works and origin and _address(origin)[1] != host and origin not in self._settings.allow_origins:
            return "Pages of other origins may not connect.\n"
        return None


def _address(url: str) -> tuple[str | None, str | None]:
    """Its host's name, and the same with the port as it stands there."""
    try:
        parts = urlsplit(url)
        return parts.hostname, parts.netloc
    except ValueError:
        return None, None
