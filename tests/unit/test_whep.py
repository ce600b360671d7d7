"""Viewers over WebRTC, with aiortc as the other side: picture and sound together, limits, and what is freed."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from client_fake import running
from PIL import Image
from test_web_api import PictureFake, Tone, asked
from tritonclient.utils import serialize_byte_tensor
from web_fake import WAIT_S, serving

from lipsync_client.live.frame import LoopClock
from lipsync_client.voices.voices import Voices

aiortc = pytest.importorskip("aiortc", reason="needs the extra webrtc")
viewer_module = pytest.importorskip("lipsync_client.web.viewer")


class RestingFake(PictureFake):
    """Idle pictures are black, talking ones red."""

    def _footage(self, request, context):
        answer = super()._footage(request, context)
        file = io.BytesIO()
        Image.new("RGB", (64, 48), (0, 0, 0)).save(file, "JPEG")
        count = answer.outputs[0].shape[0]
        answer.raw_output_contents[0] = serialize_byte_tensor(np.array([file.getvalue()] * count, dtype=object)).item()
        return answer


@pytest.fixture
def fake() -> Iterator[RestingFake]:
    with running(RestingFake()) as server:
        yield server


class Player:
    """A viewer."""

    def __init__(self) -> None:
        self.peer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration([]))
        self.tracks: dict[str, Any] = {}
        for kind in ("audio", "video"):
            self.peer.addTransceiver(kind, direction="recvonly")
        self.peer.on("track", lambda track: self.tracks.setdefault(track.kind, track))

    async def offer(self) -> str:
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return str(self.peer.localDescription.sdp)

    async def watch(self, server: Any, **headers: str) -> str:
        """Connect. Returns the viewer's address."""
        async with offered(server, await self.offer(), **headers) as answer:
            assert answer.status == 201 and answer.headers["content-type"].startswith("application/sdp")
            sdp = (await answer.body()).decode()
        assert "H264" in sdp and "VP8" not in sdp and "opus" in sdp
        await self.peer.setRemoteDescription(aiortc.RTCSessionDescription(sdp, "answer"))
        return str(answer.headers["location"])

    async def frame(self, kind: str) -> Any:
        return await asyncio.wait_for(self.tracks[kind].recv(), WAIT_S)

    def vanish(self) -> None:
        """Be lost, as a machine that lost its network: nothing is said and nothing answered."""
        for transport in {one.sender.transport.transport for one in self.peer.getTransceivers()}:
            for protocol in transport._connection._protocols:
                protocol.transport.abort()


def offered(server: Any, sdp: str, **headers: str) -> Any:
    return asked(server, "POST", "/whep", sdp.encode(), **{"Content_Type": "application/sdp", **headers})


def said(server: Any, where: str, **values: Any) -> Any:
    return asked(server, "POST", f"{where}/say", json.dumps(values).encode())


async def until(condition: Any) -> None:
    for _ in range(600):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not happen in time")


def run(main: Any, fake: RestingFake, **settings: Any) -> None:
    async def served() -> None:
        voices = Voices([Tone()])
        async with serving(fake, LoopClock(), voices=voices, **settings) as server:  # type: ignore[arg-type]
            await main(server)

    asyncio.run(asyncio.wait_for(served(), 200))


async def onset(player: Player, kind: str) -> float:
    """Seconds from the first frame to the first one that talks."""
    first = None
    while True:
        frame = await player.frame(kind)
        seconds = float(frame.pts * frame.time_base)
        first = seconds if first is None else first
        if kind == "video":
            assert (frame.width, frame.height) == (64, 48)
            talks = frame.to_ndarray(format="rgb24")[..., 0].mean() > 100
        else:
            talks = np.abs(frame.to_ndarray()).max() > 2000
        if talks:
            return seconds - first


def test_picture_and_sound_of_a_text_come_together(fake: RestingFake) -> None:
    async def main(server: Any) -> None:
        player = Player()
        where = await player.watch(server)
        both = [asyncio.create_task(onset(player, kind)) for kind in ("video", "audio")]
        async with said(server, where, text="Hello") as answer:
            assert answer.status == 202
        picture, sound = await asyncio.gather(*both)
        assert abs(picture - sound) <= 0.04
        colour = (await player.frame("video")).to_ndarray(format="rgb24").mean((0, 1))
        assert np.abs(colour - (200, 40, 40)).max() < 12
        async with asked(server, "POST", f"{where}/interrupt") as answer:
            assert answer.status == 204
        while (await player.frame("video")).to_ndarray(format="rgb24")[..., 0].mean() > 100:
            pass
        await player.peer.close()

    run(main, fake)


def test_text_that_cannot_be_said_is_refused(fake: RestingFake) -> None:
    async def main(server: Any) -> None:
        player = Player()
        where = await player.watch(server)
        for values, status in (({"text": "你好"}, 422), ({"text": 3}, 400), ({"text": "a" * 21}, 413), ({}, 422)):
            async with said(server, where, **values) as answer:
                assert answer.status == status, values
        async with said(server, "/whep/nobody", text="a") as answer:
            assert answer.status == 404
        await player.peer.close()

    run(main, fake, text_chars=20)


@pytest.mark.parametrize("way", ["closes", "deletes", "vanishes"])
def test_a_viewer_that_goes_frees_its_place_and_session(fake: RestingFake, way: str) -> None:
    async def main(server: Any) -> None:
        player = Player()
        where = await player.watch(server)
        await player.frame("video")
        async with offered(server, "v=0") as answer:
            assert answer.status == 503 and answer.headers["retry-after"] == "5"
        if way == "closes":
            await player.peer.close()
        elif way == "deletes":
            async with asked(server, "DELETE", where) as answer:
                assert answer.status == 200
        else:
            player.vanish()
        while True:
            async with said(server, where, text="a") as answer:
                if answer.status == 404:
                    break
            await asyncio.sleep(0.1)
        other = Player()
        await other.watch(server)
        await other.frame("video")
        await other.peer.close()
        await player.peer.close()

    run(main, fake, max_viewers=1)


def test_twenty_offers_at_once_harm_nobody(fake: RestingFake) -> None:
    async def main(server: Any) -> None:
        first = Player()
        where = await first.watch(server)
        await first.frame("video")
        players = [Player() for _ in range(20)]
        offers = [await player.offer() for player in players]

        async def one(sdp: str) -> int:
            async with offered(server, sdp) as answer:
                return int(answer.status)

        statuses = await asyncio.gather(*(one(sdp) for sdp in offers))
        assert sorted(statuses) == [201] * 2 + [503] * 18
        async with said(server, where, text="Hello") as answer:
            assert answer.status == 202
        assert await onset(first, "video") >= 0
        for player in (first, *players):
            await player.peer.close()

    run(main, fake, max_viewers=3)


def test_offers_that_cannot_be_answered_are_refused_and_leave_no_place_taken(fake: RestingFake) -> None:
    async def main(server: Any) -> None:
        sdp = await Player().offer()
        only_sound = sdp[: sdp.index("m=video")]
        vp8 = "\r\n".join(line for line in sdp.split("\r\n") if "H264" not in line)
        for wrong in ("", "nonsense", "v=0\r\n", only_sound, vp8, "a" * 70_000, "m=\r\n" * 99):
            async with offered(server, wrong) as answer:
                assert answer.status in (413, 422), wrong[:50]
        async with offered(server, sdp, Content_Type="text/plain") as answer:
            assert answer.status == 415
        player = Player()
        await player.watch(server)
        await player.frame("video")
        await player.peer.close()

    run(main, fake, max_viewers=1)


def test_a_viewer_that_never_connects_is_let_go(fake: RestingFake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_module, "CONNECT_S", 0.5)

    async def main(server: Any) -> None:
        async with offered(server, await Player().offer()) as answer:
            assert answer.status == 201
        player = Player()
        sdp = await player.offer()
        status = 503
        while status == 503:
            async with offered(server, sdp) as answer:
                status = answer.status
            await asyncio.sleep(0.05)
        assert status == 201

    run(main, fake, max_viewers=1)


def test_viewers_need_the_token_and_learn_the_ice_servers(fake: RestingFake) -> None:
    async def main(server: Any) -> None:
        sdp = await Player().offer()
        async with offered(server, sdp) as answer:
            assert answer.status == 401
        async with offered(server, sdp, Authorization="Bearer secret", Origin="http://evil.example.org") as answer:
            assert answer.status == 403
        async with offered(server, sdp, Authorization="Bearer secret") as answer:
            assert answer.status == 201
            assert answer.headers["link"] == '<stun:127.0.0.1:9>; rel="ice-server"'

    run(main, fake, token="secret", ice_servers=("stun:127.0.0.1:9",))


def test_a_slow_encoder_leaves_out_pictures_and_holds_up_no_sound(
    fake: RestingFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    encode = viewer_module._Encoder.encode

    def slow(encoder: Any, frame: Any, number: int) -> Any:
        if number == 10:
            stuck.wait(WAIT_S)
        return encode(encoder, frame, number)

    monkeypatch.setattr(viewer_module._Encoder, "encode", slow)

    async def main(server: Any) -> None:
        player = Player()
        await player.watch(server)
        first = (await player.frame("audio")).pts
        while (await player.frame("audio")).pts < first + 3 * viewer_module.SOUND_RATE:
            pass
        stuck.set()
        times = [float((frame := await player.frame("video")).pts * frame.time_base) for _ in range(16)]
        gaps = np.diff(times)
        assert gaps.max() > 2  # of what was not encoded
        await player.peer.close()

    run(main, fake)
