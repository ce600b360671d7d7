"""The avatars' plain footage over HTTP, in blocks: a browser keeps it, and asks for what it lacks in any order."""

from __future__ import annotations

import asyncio
import hmac
import struct
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from lipsync_client.aio import AsyncClient
from lipsync_client.answers import Avatar
from lipsync_client.errors import LipsyncError
from lipsync_client.live.footage import Pictures
from lipsync_client.web.faces import Faces
from lipsync_client.web.settings import Settings
from lipsync_client.web.words import for_visitors

__all__ = ["FootageFiles", "footage_of"]

MOST = 25  # frames of one answer
FOR_EVER = "private, max-age=31536000, immutable"  # the key in the address is a hash of the content
KEPT_BYTES = 64 << 20  # of all avatars, here; the lip-sync server has them in any case


def footage_of(avatar: Avatar) -> dict[str, Any]:
    """What a page must know to ask for an avatar's footage: `path`, relative to the page's address, and `frames`."""
    return {"path": f"footage/{quote(avatar.id, safe='')}/{_hex(avatar.key)}/", "frames": avatar.footage_frames}


def _hex(key: int) -> str:
    return f"{key % 2**64:016x}"


class FootageFiles:
    """Answers `/footage/{avatar}/{key}/{first}-{last}` and `/poster`.

    Args:
        client: the lip-sync server.
        faces: the avatars that are offered; there is no footage of others.
        settings: the token.
    """

    def __init__(self, client: AsyncClient, faces: Faces, settings: Settings) -> None:
        self._client, self._faces, self._settings = client, faces, settings
        self._kept: Pictures[bytes] = Pictures(KEPT_BYTES, MOST)
        self._one_at_a_time = asyncio.Lock()  # pages that ask for the same together: it is fetched once
        self._avatars: dict[str, Avatar] = {}

    async def serve(self, request: Request) -> Response:
        """Footage frames, each as its length (u32) and a JPEG. 401 without the token, 404 where there are none such."""
        name, key, first, last = (request.path_params[part] for part in ("avatar", "key", "first", "last"))

        async def block() -> bytes | None:
            frames = await self._frames(name, key, first, last)
            return b"".join(struct.pack("<I", len(jpeg)) + jpeg for jpeg in frames) if frames else None

        return await self._answer(request, block, "application/octet-stream", FOR_EVER)

    async def serve_poster(self, request: Request) -> Response:
        """The first frame of the avatar that a page shows first, as JPEG; 204 where a page must do without."""

        async def first() -> bytes | None:
            name = (await self._faces.names())[0]
            frames = await self._frames(name, _hex((await self._client.avatar(name)).key), 0, 0)
            return frames[0] if frames else None

        answer = await self._answer(request, first, "image/jpeg", "private, max-age=60")
        return answer if answer.status_code == 200 else Response(status_code=204)  # no error in a browser's console

    async def _answer(
        self, request: Request, content: Callable[[], Awaitable[bytes | None]], kind: str, cache: str
    ) -> Response:
        wanted = self._settings.token
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if wanted is not None and not hmac.compare_digest(given.encode(), wanted.encode()):
            return PlainTextResponse("The token is missing or wrong.\n", 401)
        try:
            found = await content()
        except LipsyncError as failure:
            return PlainTextResponse(f"{for_visitors(failure)}\n", 503)
        if found is None:
            return PlainTextResponse("There is no such footage.\n", 404)
        return Response(found, media_type=kind, headers={"Cache-Control": cache})

    async def _frames(self, name: str, key: str, first: int, last: int) -> list[bytes] | None:
        """JPEGs of the frames first .. last; None if there are none such."""
        if not first <= last < first + MOST or name not in await self._faces.names():
            return None
        async with self._one_at_a_time:
            here = [self._kept.get((key, index)) for index in range(first, last + 1)]
            if (frames := [jpeg for jpeg in here if jpeg]) == here:
                return frames
            avatar = self._avatars.get(name)
            if avatar is None or _hex(avatar.key) != key:
                avatar = self._avatars[name] = await self._client.avatar(name)
            if _hex(avatar.key) != key or last >= avatar.footage_frames:
                return None
            # The loop's first round goes through the frames in order.
            frames = list((await self._client.footage(avatar.key, first, last - first + 1, name)).frames)
            for index, jpeg in enumerate(frames, first):
                self._kept.keep((key, index), jpeg)
            return frames
