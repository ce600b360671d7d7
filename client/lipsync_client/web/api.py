"""HTTP for people and programs: `/v1/videos`, `/v1/avatars`, `/v1/voices`; `openapi.py` describes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lipsync_client.aio import AsyncClient
from lipsync_client.errors import LipsyncError
from lipsync_client.media.growing import GROWING
from lipsync_client.voices.voices import Voices
from lipsync_client.web.answers import Guarded, Refusal, body_of, guarded, json_object
from lipsync_client.web.faces import Faces
from lipsync_client.web.openapi import describe
from lipsync_client.web.settings import Settings
from lipsync_client.web.tasks import first_to_end
from lipsync_client.web.videos import Speech, Videos, temporary_file

__all__ = ["Api"]

SOUND = ("audio/", "video/", "application/octet-stream", "application/ogg")
FIELDS = {"text", "avatar", "format", "voice", "language"}
JSON_BYTES = 64 << 10


class Api(Guarded):
    """The endpoints of one application.

    Args:
        client, faces, voices, settings: as for `create_app`.
    """

    def __init__(self, client: AsyncClient, faces: Faces, voices: Voices | None, settings: Settings) -> None:
        super().__init__(settings)
        self._faces, self._voices = faces, voices
        self._videos = Videos(client, voices, settings)

    @property
    def routes(self) -> list[Route]:
        """For Starlette."""
        return [
            Route("/v1/avatars", self.avatars),
            Route("/v1/voices", self.voices),
            Route("/v1/videos", self.make, methods=["POST"]),
            Route("/v1/videos/{name}", self.progress),
            Route("/v1/openapi.json", self.description),
        ]

    async def description(self, request: Request) -> Response:
        """Everybody may read it."""
        return JSONResponse(describe(self._settings))

    @guarded
    async def avatars(self, request: Request) -> Response:
        return JSONResponse({"avatars": [{"id": name} for name in await self._faces.names()]})

    @guarded
    async def voices(self, request: Request) -> Response:
        return JSONResponse({"voices": self._voices.offered if self._voices else []})

    @guarded
    async def progress(self, request: Request) -> Response:
        found = self._videos.progress(request.path_params["name"])
        if found is None:
            raise Refusal(404, "not_found", "There is no such video, or it was made long ago.")
        return JSONResponse(asdict(found))

    @guarded
    async def make(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.startswith(SOUND):
            raise Refusal(
                415, "content_type", "Send JSON with a `text`, or a sound file with a Content-Type such as audio/wav."
            )
        response = VideoResponse(self._videos, self._settings)
        try:
            await response.begin(request, self._speech(request, kind == "application/json"))
        except BaseException:
            await response.close()
            raise
        return response

    async def _speech(self, request: Request, spoken: bool) -> AsyncGenerator[tuple[Speech, str, str], None]:
        """What the request's body says, its avatar and its format; until it is closed, an upload lies in a file."""
        if spoken:
            values = json_object(await body_of(request, JSON_BYTES))
            avatar, form = await self._options(values)
            text = values.get("text", "")
            if len(text) > self._settings.text_chars:
                limit = self._settings.text_chars
                raise Refusal(413, "text", f"The text has {len(text)} characters; {limit} are allowed.")
            yield await self._videos.of_text(text, values.get("voice"), values.get("language")), avatar, form
            return
        avatar, form = await self._options(dict(request.query_params))
        with temporary_file() as file:
            size = 0
            async for piece in request.stream():
                size += len(piece)
                if size > self._settings.upload_bytes:
                    raise Refusal(413, "too_much", f"The file has more than {self._settings.upload_bytes} bytes.")
                file.write(piece)
            file.flush()
            yield await self._videos.of_file(Path(file.name)), avatar, form

    async def _options(self, values: dict[str, Any]) -> tuple[str, str]:
        """The avatar and the format that are asked for. Raises Refusal."""
        for key, value in values.items():
            if key not in FIELDS:
                raise Refusal(
                    400, "bad_request", f"There is no field {key[:40]!r}; there are {', '.join(sorted(FIELDS))}."
                )
            if not isinstance(value, str):
                raise Refusal(400, "bad_request", f"{key} must be a string.")
        names = await self._faces.names()
        avatar, form = values.get("avatar") or names[0], values.get("format") or "mp4"
        if avatar not in names:
            raise Refusal(404, "not_found", f"There is no avatar {avatar[:40]!r} here: GET /v1/avatars lists them.")
        if form not in GROWING:
            raise Refusal(400, "bad_request", f"The format is {form[:20]!r}; allowed: {', '.join(GROWING)}.")
        return avatar, form


class VideoResponse(Response):
    """A video as it grows. It holds a place until it is closed."""

    def __init__(self, videos: Videos, settings: Settings) -> None:
        self._videos, self._settings = videos, settings
        self._open = AsyncExitStack()
        self._pieces: AsyncIterator[bytes] | None = None

    async def begin(self, request: Request, speech: AsyncGenerator[tuple[Speech, str, str], None]) -> None:
        """Make the first frame. Raises Refusal, LipsyncError, ClientDisconnect."""
        await self._open.enter_async_context(self._videos.place())
        await self._open.enter_async_context(aclosing(speech))
        try:
            wanted = await asyncio.wait_for(anext(speech), self._settings.upload_s)
        except asyncio.TimeoutError:
            raise Refusal(408, "too_slow", f"The request took longer than {self._settings.upload_s:g} s.") from None

        async def prepare() -> None:
            making = self._videos.make(*wanted)
            progress, self._pieces = await self._open.enter_async_context(making)
            self.init_headers(
                {
                    "Content-Type": GROWING[wanted[2]],
                    "Location": f"/v1/videos/{progress.id}",
                    "Lipsync-Frames": str(progress.of),
                }
            )

        await first_to_end(prepare(), _gone(request.receive))
        if self._pieces is None:
            raise ClientDisconnect

    async def close(self) -> None:
        """End what is being made."""
        await self._open.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await first_to_end(self._send(send), _gone(receive))
        except (LipsyncError, asyncio.TimeoutError):
            pass  # an answer without its end: so the caller knows that the video is cut, and its progress says why
        finally:
            await self.close()

    async def _send(self, send: Send) -> None:
        assert self._pieces is not None
        async for piece in self._pieces:
            if piece:
                message = {"type": "http.response.body", "body": piece, "more_body": True}
                await asyncio.wait_for(send(message), self._settings.taking_s)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    """Return when the caller has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
