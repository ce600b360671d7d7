"""One browser: its WebSocket, and the live session behind it."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Mapping
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from lipsync_client.aio import AsyncClient
from lipsync_client.answers import Avatar
from lipsync_client.errors import LipsyncError
from lipsync_client.live.footage import looped
from lipsync_client.live.frame import Clock, LiveFrame
from lipsync_client.live.session import LiveSession
from lipsync_client.voices.voices import Voices
from lipsync_client.web.faces import Faces
from lipsync_client.web.footage import footage_of
from lipsync_client.web.protocol import (
    RATES,
    Close,
    Hello,
    Refused,
    number_of,
    numbers_of,
    pack_frame,
    pack_patch,
    parse_control,
    parse_hello,
    parse_sound,
    text_of,
)
from lipsync_client.web.settings import Settings
from lipsync_client.web.speaker import Speaker
from lipsync_client.web.tasks import first_to_end
from lipsync_client.web.words import for_visitors

__all__ = ["Connection"]

SILENT_S = 2.0  # a failure that goes on is reported this often
LOAD_S = 600.0  # seconds that a load may take: a GPU may compile the network first
LOADING_S = 5.0  # between two signs of life before the welcome; the page waits 25 s for one
SLACK = 8  # frames more on their way than ever were when they went best: pictures are left out until they have arrived
BUFFER_S = 5.0  # seconds of sound in the session; the rest waits where an interruption finds it at once


class Connection:
    """Serves one browser until either side ends it.

    Three tasks: one reads messages, so that an interruption is heard at once; one gives sound to the session, which may
    wait; one sends frames, which may wait for the browser.

    Args:
        socket: accepted.
        settings: limits.
        clock: of the session; what nobody uses is measured by it too.
    """

    def __init__(self, socket: WebSocket, settings: Settings, clock: Clock) -> None:
        self._socket = socket
        self._settings = settings
        self._clock = clock
        self._sending = asyncio.Lock()  # first come, first sent: nothing old follows the answer to an interruption
        self._used = clock.now()  # when somebody last did something
        self._second, self._messages = 0, 0
        self._sent = self._taken = -1  # frames' numbers
        self._fewest = settings.window  # frames that were on their way when one was taken
        self._footage, self._has = 0, set[int]()  # footage frames: how many there are, and which the browser has
        self._room = asyncio.Event()
        self._speaker: Speaker | None = None  # once there is a session

    async def hello(self) -> Hello:
        """The first message, with the right token. Raises Refused, WebSocketDisconnect."""
        try:
            message = await asyncio.wait_for(self._receive(), self._settings.hello_s)
        except asyncio.TimeoutError:
            raise Refused("idle", f"No hello within {self._settings.hello_s:g} s.", Close.IDLE) from None
        hello = parse_hello(message)
        wanted, token = self._settings.token, hello.token.encode("utf-8", "surrogatepass")  # JSON may hold half a sign
        if wanted is not None and not hmac.compare_digest(token, wanted.encode()):
            raise Refused("token", "The token is missing or wrong.", Close.TOKEN)
        return hello

    async def serve(self, hello: Hello, client: AsyncClient, faces: Faces, voices: Voices | None) -> None:
        """Serve until the browser goes away.

        Args:
            hello: what the browser asked for.
            client: the lip-sync server; all connections share it.
            faces: the avatars to choose from.
            voices: speak text; None where there is no synthesiser.

        Raises:
            Refused: the browser must be sent away.
            WebSocketDisconnect: it went.
            LipsyncError: there is no session to be had.
        """
        # It is read from the start: a browser that goes while an avatar is loaded for it leaves its place.
        await first_to_end(self._read(), self._live(hello, client, faces, voices), self._send_heartbeats())

    async def refuse(self, refusal: Refused) -> None:
        """Say why, and end the connection."""
        await self._tell("error", reason=refusal.reason, text=str(refusal))
        await self._socket.close(refusal.code or Close.BAD_MESSAGE, refusal.reason)

    async def _live(self, hello: Hello, client: AsyncClient, faces: Faces, voices: Voices | None) -> None:
        names = await faces.names()
        avatar = hello.avatar if hello.avatar in names else names[0]
        session = LiveSession(
            client,
            avatar=avatar,
            pictures="frames" if hello.version == 1 else "patches",
            sound_rate=hello.sound_rate,
            buffer_s=BUFFER_S,
            patience=self._settings.patience_s,
            clock=self._clock,
        )
        await client.avatar(avatar, timeout=LOAD_S)  # a gateway loads it if necessary
        async with session:
            timeline = session.timeline
            self._footage = session.avatar.footage_frames
            self._speaker = speaker = Speaker(session, voices, self._settings, self._fail)
            await self._tell(
                "welcome",
                version=hello.version,
                avatar=avatar,
                avatars=names,
                width=session.avatar.frame_width,
                height=session.avatar.frame_height,
                fps=timeline.fps,
                look_ahead_s=timeline.samples_after / timeline.sample_rate,
                rates=RATES,
                voice=voices.name if voices else None,
                voices=voices.offered if voices else [],
                text_chars=self._settings.text_chars,
                waiting_s=self._settings.waiting_s,
                **({} if hello.version == 1 else {"footage": footage_of(session.avatar)}),
            )
            await first_to_end(speaker.run(), self._show(session, speaker, hello.version))

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(LOADING_S)
            if self._speaker is None:
                await self._tell("loading")

    async def _read(self) -> None:
        while True:
            message, speaker = await self._receive(), self._speaker
            try:
                if speaker is None:
                    raise Refused("bad_message", "A message came before the welcome.", Close.BAD_MESSAGE)
                if isinstance(message, bytes):
                    self._note_use()
                    rate, sound = parse_sound(message)
                    if sound:
                        speaker.sound(rate, sound)
                else:
                    await self._handle_control(parse_control(message), speaker)
            except Refused as refusal:
                if refusal.code is not None:
                    raise
                await self._tell("error", reason=refusal.reason, text=str(refusal))

    async def _handle_control(self, message: Mapping[str, Any], speaker: Speaker) -> None:
        kind = message["type"]
        if kind == "taken":
            index = number_of(message, "index")
            if not self._taken < index <= self._sent:
                raise Refused("bad_message", f"Frame {index} cannot be taken now.", Close.BAD_MESSAGE)
            self._fewest = min(self._fewest, self._sent - index)
            self._taken = index
            self._has.update(numbers_of(message, "have", self._footage))
            self._room.set()
            return
        self._note_use()
        if kind == "end":
            speaker.end()
        elif kind == "say":
            choice = (text_of(message, key, "") or None for key in ("voice", "language"))
            speaker.say(text_of(message, "text"), *choice)
        elif kind == "interrupt":
            await speaker.interrupt()
            await self._tell("interrupted")
        else:
            raise Refused("bad_message", f"There is no message of type {kind[:40]!r}.", Close.BAD_MESSAGE)

    async def _show(self, session: LiveSession, speaker: Speaker, version: int) -> None:
        told, avatar = -SILENT_S, session.avatar
        while True:
            # Before the frame is taken from the session: an interruption meanwhile must find it there.
            await self._wait_for_room()
            try:
                frame = await anext(session)
            except LipsyncError as failure:
                speaker.forget()
                if self._clock.now() - told >= SILENT_S:
                    told = self._clock.now()
                    await self._fail(failure)
                continue
            if frame.state == "speaking" or speaker.busy:
                self._used = self._clock.now()
            elif self._clock.now() - self._used > self._settings.idle_s:
                raise Refused("idle", f"Nobody has used this page for {self._settings.idle_s:g} s.", Close.IDLE)
            if version > 1 and frame.footage_key not in (None, avatar.key):  # it was replaced: its footage is another
                avatar = session.avatar
                self._footage, self._has = avatar.footage_frames, set()
                await self._tell("footage", **footage_of(avatar))
            self._sent = frame.index
            await self._send(pack_frame(frame) if version == 1 else self._packed(frame, avatar))

    def _packed(self, frame: LiveFrame, avatar: Avatar) -> bytes:
        late = self._sent - self._taken > self._fewest + SLACK
        index = looped(frame.footage_position, avatar)
        return pack_patch(frame, index, has=index in self._has, leave_out=late)

    async def _wait_for_room(self) -> None:
        while self._sent - self._taken >= self._settings.window:
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), self._settings.hello_s)
            except asyncio.TimeoutError:
                text = f"The browser has taken no frame for {self._settings.hello_s:g} s."
                raise Refused("stalled", text, Close.IDLE) from None

    def _note_use(self) -> None:
        self._used = self._clock.now()
        second = int(asyncio.get_running_loop().time())
        self._messages = self._messages + 1 if second == self._second else 1
        self._second = second
        if self._messages > self._settings.messages_per_s:
            text = f"More than {self._settings.messages_per_s} messages came in a second."
            raise Refused("too_much", text, Close.TOO_MUCH)

    async def _receive(self) -> str | bytes:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text: str | None = message.get("text")
        return message.get("bytes") or b"" if text is None else text

    async def _send(self, message: bytes) -> None:
        async with self._sending:
            await self._socket.send_bytes(message)

    async def _tell(self, kind: str, **values: Any) -> None:
        async with self._sending:
            await self._socket.send_text(json.dumps({"type": kind, **values}, allow_nan=False))

    async def _fail(self, failure: LipsyncError) -> None:
        await self._tell("error", reason="failed", text=for_visitors(failure))
