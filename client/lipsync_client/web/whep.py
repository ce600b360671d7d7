"""WHEP: viewers over WebRTC, whose offer comes by HTTP. Players such as OBS, GStreamer and browsers speak it."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lipsync_client.aio import AsyncClient
from lipsync_client.errors import LipsyncError
from lipsync_client.live.frame import Clock
from lipsync_client.live.session import LiveSession
from lipsync_client.voices.voices import Voices
from lipsync_client.web.answers import Guarded, Refusal, body_of, guarded, json_object
from lipsync_client.web.faces import Faces
from lipsync_client.web.protocol import Refused
from lipsync_client.web.settings import Settings
from lipsync_client.web.speaker import Speaker

if TYPE_CHECKING:
    from lipsync_client.web.viewer import Viewer

__all__ = ["Whep"]

SDP = "application/sdp"
SDP_BYTES = 64 << 10
LOAD_S = 600.0  # seconds that a load may take: a GPU may compile the network first
BUFFER_S = 5.0  # seconds of sound in a session
STATUS = {"too_much": 429, "text": 413, "voice": 422}


class Whep(Guarded):
    """The endpoints of one application.

    Args:
        client, faces, voices, settings, clock: as for `create_app`.
    """

    def __init__(
        self, client: AsyncClient, faces: Faces, voices: Voices | None, settings: Settings, clock: Clock
    ) -> None:
        super().__init__(settings)
        self._client, self._faces, self._voices, self._clock = client, faces, voices, clock
        self._places = 0
        self._viewers: dict[str, Viewer] = {}
        self._running: set[asyncio.Task[None]] = set()

    @property
    def routes(self) -> list[Route]:
        """For Starlette."""
        return [
            Route("/whep", self.offer, methods=["POST"]),
            Route("/whep/{name}", self.leave, methods=["DELETE"]),
            Route("/whep/{name}/say", self.say, methods=["POST"]),
            Route("/whep/{name}/interrupt", self.interrupt, methods=["POST"]),
        ]

    async def close(self) -> None:
        """Send all viewers away."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @guarded
    async def offer(self, request: Request) -> Response:
        if find_spec("aiortc") is None:
            raise Refusal(501, "webrtc", "This server has no WebRTC: pip install 'lipsync-triton[webrtc]'.")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != SDP:
            raise Refusal(415, "content_type", f"Send an SDP offer, with Content-Type: {SDP}.")
        if self._places >= self._settings.max_viewers:  # before anything is parsed: that takes time
            text = f"{self._places} viewers are here, as many as may be at once: try again later."
            raise Refusal(503, "full", text, {"Retry-After": "5"})
        self._places += 1
        opened = AsyncExitStack()
        opened.callback(self._leave_place)
        try:
            body = await asyncio.wait_for(body_of(request, SDP_BYTES), self._settings.hello_s)
            viewer = await self._begin(opened, request.query_params.get("avatar"))
            answer = await asyncio.wait_for(viewer.answer(body.decode("utf-8", "replace")), self._settings.hello_s)
        except BaseException as error:
            await opened.aclose()
            if isinstance(error, asyncio.TimeoutError):
                raise Refusal(408, "too_slow", "The offer took too long to arrive or to be answered.") from None
            raise
        name = secrets.token_urlsafe(16)
        task = asyncio.create_task(self._run(name, viewer, opened))
        self._viewers[name] = viewer
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        response = Response(answer, 201, {"Location": f"/whep/{name}"}, SDP)
        for url in self._settings.ice_servers:
            response.headers.append("Link", f'<{url}>; rel="ice-server"')
        return response

    @guarded
    async def leave(self, request: Request) -> Response:
        self._viewer(request).end()
        return Response(status_code=200)

    @guarded
    async def say(self, request: Request) -> Response:
        viewer, values = self._viewer(request), json_object(await body_of(request, SDP_BYTES))
        text, voice, language = (values.get(key) or "" for key in ("text", "voice", "language"))
        if not all(isinstance(value, str) for value in (text, voice, language)):
            raise Refusal(400, "bad_request", "text, voice and language must be strings.")
        if self._voices:
            self._voices.check(text, voice or None, language or None)
        try:
            viewer.speaker.say(text, voice or None, language or None)
        except Refused as refusal:
            raise Refusal(STATUS.get(refusal.reason, 400), refusal.reason, str(refusal)) from None
        return Response(status_code=202)

    @guarded
    async def interrupt(self, request: Request) -> Response:
        await self._viewer(request).speaker.interrupt()
        return Response(status_code=204)

    def _viewer(self, request: Request) -> Viewer:
        viewer = self._viewers.get(request.path_params["name"])
        if viewer is None:
            raise Refusal(404, "not_found", "There is no such viewer, or it has gone.")
        return viewer

    async def _begin(self, opened: AsyncExitStack, avatar: str | None) -> Viewer:
        """A viewer with a session of its own; `opened` closes both. Raises Refusal, LipsyncError."""
        from lipsync_client.web.viewer import SOUND_RATE, Viewer

        names = await self._faces.names()
        if avatar and avatar not in names:
            raise Refusal(404, "not_found", f"There is no avatar {avatar[:40]!r} here: GET /v1/avatars lists them.")
        avatar = avatar or names[0]
        await self._client.avatar(avatar, timeout=LOAD_S)  # a gateway loads it if necessary
        session = await opened.enter_async_context(
            LiveSession(
                self._client,
                avatar=avatar,
                sound_rate=SOUND_RATE,
                buffer_s=BUFFER_S,
                patience=self._settings.patience_s,
                clock=self._clock,
            )
        )
        viewer = Viewer(session, Speaker(session, self._voices, self._settings, _ignore), self._settings.ice_servers)
        opened.push_async_callback(viewer.close)
        return viewer

    async def _run(self, name: str, viewer: Viewer, opened: AsyncExitStack) -> None:
        try:
            await viewer.run()
        except LipsyncError:  # it never came
            pass
        finally:
            self._viewers.pop(name, None)
            await opened.aclose()

    def _leave_place(self) -> None:
        self._places -= 1


async def _ignore(failure: LipsyncError) -> None:
    """A player has no place for it."""
