"""A page's server on a free port, on a session clock that tests control, and a browser that is only a WebSocket."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from live_fake import LiveFake
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from lipsync_client import AsyncClient
from lipsync_client.web.app import create_app
from lipsync_client.web.faces import Faces
from lipsync_client.web.settings import Settings
from live_clock import TestClock

PATCH, WHOLE, LEFT_OUT, PLAIN = 4, 8, 16, 32  # flags of a frame in version 2
WAIT_S = 30.0  # nothing may hang
RATE = 8000  # of the sound both ways


class WebFake(LiveFake):
    """Takes requests as large as a live session makes them by default."""

    def ModelConfig(self, request, context):
        answer = super().ModelConfig(request, context)
        if request.name == "mel_preprocess":
            answer.config.parameters["max_frames"].string_value = "16"
        return answer


@dataclass(frozen=True)
class Shown:
    """A frame as docs/web.md describes it."""

    speaking: bool
    last: bool
    index: int
    speech: int
    speech_frame: int
    sound: bytes
    jpeg: bytes  # in version 2, what the message carries
    flags: int = 0  # those of version 2 alone
    footage: int = -1
    box: tuple[int, ...] = ()

    @classmethod
    def parse(cls, message: bytes) -> Shown:
        kind, flags, zeros, index, speech, speech_frame, size = struct.unpack_from("<BBHIIiI", message)
        facts = bool(flags & 1), bool(flags & 2), index, speech, speech_frame
        assert zeros == 0
        if kind == 1:
            assert flags < 4
            return cls(*facts, message[20 : 20 + size], message[20 + size :])
        assert kind == 3
        (footage,), sound, rest = struct.unpack_from("<I", message, 20), message[24 : 24 + size], message[24 + size :]
        box = struct.unpack_from("<4H", rest) if flags & PATCH else ()
        return cls(*facts, sound, rest[8:] if box else rest, flags & ~3, footage, box)


class Browser:
    """Takes what comes, and by default says so at once."""

    def __init__(self, socket: ClientConnection, takes: bool = True) -> None:
        self.socket = socket
        self.takes = takes
        self.frames: list[Shown] = []
        self.told: list[dict[str, Any]] = []
        self.news: list[Shown | dict[str, Any]] = []  # both, in the order of their coming

    async def tell(self, kind: str, **values: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **values}))

    async def hello(self, **values: Any) -> dict[str, Any]:
        await self.tell("hello", **{"version": 1, "sound_rate": RATE, **values})
        return await self.until_told("welcome")

    async def sound(self, pcm: bytes, rate: int = RATE) -> None:
        await self.socket.send(struct.pack("<BxxxI", 2, rate) + pcm)

    async def next(self) -> Shown | dict[str, Any]:
        message = await asyncio.wait_for(self.socket.recv(), WAIT_S)
        if isinstance(message, str):
            self.told.append(json.loads(message))
            self.news.append(self.told[-1])
        else:
            self.frames.append(Shown.parse(message))
            self.news.append(self.frames[-1])
            if self.takes:
                await self.tell("taken", index=self.frames[-1].index)
        return self.news[-1]

    async def until(self, wanted: Callable[[Any], bool]) -> Any:
        while not wanted(news := await self.next()):
            pass
        return news

    async def until_told(self, kind: str) -> dict[str, Any]:
        return await self.until(lambda news: isinstance(news, dict) and news["type"] == kind)

    async def until_frame(self, wanted: Callable[[Shown], bool]) -> Shown:
        return await self.until(lambda news: isinstance(news, Shown) and wanted(news))

    async def until_closed(self) -> tuple[int, str]:
        """Why: the code, and the last sentence."""
        try:
            while True:
                await self.next()
        except ConnectionClosed as end:
            assert end.rcvd is not None
            return end.rcvd.code, self.told[-1].get("text", "") if self.told else ""


class WebServer:
    def __init__(self, port: int, settings: Settings) -> None:
        self.host = f"127.0.0.1:{port}"
        self._settings = settings

    def set(self, **settings: Any) -> None:
        """Change settings, for all connections."""
        for name, value in settings.items():
            object.__setattr__(self._settings, name, value)

    @asynccontextmanager
    async def open(self, *, takes: bool = True, **headers: str) -> AsyncIterator[Browser]:
        headers = {"Origin": f"http://{self.host}", **headers}
        # At its end a client that has stopped reading does not wait for the server's farewell behind all the frames.
        options = {"open_timeout": WAIT_S, "close_timeout": 0.1}
        async with connect(f"ws://{self.host}/live", additional_headers=headers, **options) as socket:
            yield Browser(socket, takes)

    @asynccontextmanager
    async def page(self, **hello: Any) -> AsyncIterator[Browser]:
        async with self.open() as browser:
            await browser.hello(**hello)
            yield browser


@asynccontextmanager
async def serving(
    fake: LiveFake, clock: TestClock, *, voices: Any = None, faces: Faces | None = None, **settings: Any
) -> AsyncIterator[WebServer]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        limits, client = Settings(**settings), AsyncClient(fake.url, timeout=WAIT_S)
        app = create_app(client, faces or Faces(["demo"]), voices=voices, settings=limits, clock=clock)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws_max_size=256 << 10))
        running = asyncio.create_task(server.serve([listening]))
        try:
            yield WebServer(listening.getsockname()[1], limits)
        finally:
            server.should_exit = server.force_exit = True
            await asyncio.wait_for(running, WAIT_S)
