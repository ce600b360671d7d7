"""One viewer over WebRTC: a live session as H.264 and Opus. Needs the extra `webrtc`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from lipsync_client.errors import LipsyncError
from lipsync_client.extras import needs
from lipsync_client.live.frame import LiveFrame
from lipsync_client.live.session import LiveSession
from lipsync_client.web.speaker import Speaker
from lipsync_client.web.tasks import first_to_end

with needs("webrtc"):
    from aiortc import (
        MediaStreamError,
        MediaStreamTrack,
        RTCConfiguration,
        RTCIceServer,
        RTCPeerConnection,
        RTCRtpSender,
        RTCSessionDescription,
    )

__all__ = ["SOUND_RATE", "Viewer"]

SOUND_RATE = 48_000  # samples a second, Opus' own
OPUS_FRAME = SOUND_RATE // 50  # samples: 20 ms, which aiortc's encoder takes
CONNECT_S = 10.0  # from the answer to the connection
CLOSE_S = 3.0
SILENT_S = 3.5  # a viewer whose reports stop for so long is lost; they come every second
LOOK_S = 0.5
KEYFRAME_S = 2  # a viewer that lost packets for good sees the picture again within that
LARGEST = 1280 * 720  # pixels of H.264 level 3.1, which every browser decodes
BACKLOG = 3  # pictures that wait to be encoded; more are left out, and their sound goes on


class Viewer:
    """A peer connection that shows a live session until the viewer goes, is lost, or the session is closed.

    Args:
        session: open, with `sound_rate` 48000.
        speaker: gives it what is to be said.
        ice_servers: addresses such as `stun:host:port`; none: only this machine's own addresses are offered.
    """

    def __init__(self, session: LiveSession, speaker: Speaker, ice_servers: Sequence[str] = ()) -> None:
        self.speaker = speaker
        self._session = session
        # Without a list, aiortc asks a server of Google.
        self._peer = RTCPeerConnection(RTCConfiguration([RTCIceServer(urls=url) for url in ice_servers]))
        self._video, self._sound = _Track("video"), _Track("audio")
        self._encoder = _Encoder(session.timeline.fps)
        self._pictures: asyncio.Queue[tuple[LiveFrame, int]] = asyncio.Queue(BACKLOG)
        self._connected = asyncio.Event()
        self._ended = asyncio.Event()
        self._peer.on("connectionstatechange", self._note_state)

    async def answer(self, offer: str) -> str:
        """The SDP that answers a viewer's. Raises LipsyncError."""
        try:
            for track in (self._sound, self._video):  # before the offer is read: it decides about codecs
                sender = self._peer.addTransceiver(track, direction="sendonly")
                if track.kind == "video":
                    known = RTCRtpSender.getCapabilities("video").codecs
                    sender.setCodecPreferences([codec for codec in known if codec.mimeType.lower() == "video/h264"])
            await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            answer = await self._peer.createAnswer()
            await self._peer.setLocalDescription(answer)
        except Exception as error:  # aiortc's parser raises many kinds, and the offer is a stranger's
            reason = f"({type(error).__name__})"
            raise LipsyncError(f"The offer cannot be answered; it must have H.264 and Opus {reason}.") from error
        if any(one.mid is None for one in self._peer.getTransceivers()) or len(self._peer.getTransceivers()) != 2:
            raise LipsyncError("The offer must have one audio and one video track to receive.")
        return str(self._peer.localDescription.sdp)

    async def run(self) -> None:
        """Show the session until the viewer has gone. Raises LipsyncError if it never came."""
        try:
            try:
                await asyncio.wait_for(self._connected.wait(), CONNECT_S)
            except asyncio.TimeoutError:
                raise LipsyncError(f"The viewer did not connect within {CONNECT_S:.0f} s.") from None
            await first_to_end(self.speaker.run(), self._show(), self._encode(), self._watch(), self._until_ended())
        finally:
            await self.close()

    def end(self) -> None:
        """Let `run` return."""
        self._ended.set()

    async def close(self) -> None:
        """Free the connection and the encoder."""
        self._ended.set()
        for track in (self._video, self._sound):
            track.stop()
        with contextlib.suppress(
            asyncio.TimeoutError
        ):  # aiortc waits for tasks of its own that may have been cancelled
            await asyncio.wait_for(self._peer.close(), CLOSE_S)

    async def _show(self) -> None:
        number = 0
        while True:
            try:
                frame = await anext(self._session)
            except LipsyncError:  # it goes on, idle
                self.speaker.forget()
                continue
            if not self._pictures.full():
                self._pictures.put_nowait((frame, number))
            for block in _sound_of(frame, number):
                self._sound.put(block)
            number += 1

    async def _encode(self) -> None:
        """Beside the session, whose pace and sound a slow encoder must not hold up."""
        while True:
            for packet in await asyncio.to_thread(self._encoder.encode, *await self._pictures.get()):
                self._video.put(packet)

    async def _watch(self) -> None:
        """Return when nothing comes from the viewer any more."""
        loop = asyncio.get_running_loop()
        received, since = -1, loop.time()
        while loop.time() - since < SILENT_S:
            await asyncio.sleep(LOOK_S)
            stats = (await self._peer.getStats()).values()
            now = max((one.packetsReceived for one in stats if one.type == "transport"), default=0)
            if now != received:
                received, since = now, loop.time()

    async def _until_ended(self) -> None:
        await self._ended.wait()

    def _note_state(self) -> None:
        if self._peer.connectionState == "connected":
            self._connected.set()
        elif self._peer.connectionState in ("failed", "closed", "disconnected"):
            self._connected.set()
            self._ended.set()


class _Track(MediaStreamTrack):
    """Frames or packets that wait to be sent."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, data: Any) -> None:
        self._queue.put_nowait(data)

    async def recv(self) -> Any:
        if self.readyState != "live":
            raise MediaStreamError
        return await self._queue.get()


class _Encoder:
    """JPEG to H.264 for calls: no delay, a fixed quality with a bound, a whole picture every two seconds."""

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._jpeg: Any = av.CodecContext.create("mjpeg", "r")
        self._codec: Any = None

    def encode(self, frame: LiveFrame, number: int) -> list[Any]:
        """The packets of a frame, whose time is `number` / fps."""
        (picture,) = self._jpeg.decode(av.Packet(frame.jpeg))
        if self._codec is None:
            self._open(picture.width, picture.height)
        # The JPEG's colours are BT.601 in full range; H.264 players assume BT.709 from 16 to 235.
        picture = picture.reformat(
            self._codec.width,
            self._codec.height,
            "yuv420p",
            src_colorspace="ITU601",
            dst_colorspace="ITU709",
            src_color_range="JPEG",
            dst_color_range="MPEG",
        )
        picture.pts, picture.time_base = number, Fraction(1, self._fps)
        picture.pict_type = 0  # the decoder says that each is a whole picture
        return list(self._codec.encode(picture))

    def _open(self, width: int, height: int) -> None:
        shrink = min(1.0, (LARGEST / (width * height)) ** 0.5)
        self._codec = av.CodecContext.create("libx264", "w")
        self._codec.width, self._codec.height = (int(side * shrink) // 2 * 2 for side in (width, height))
        self._codec.pix_fmt = "yuv420p"
        self._codec.framerate, self._codec.time_base = Fraction(self._fps), Fraction(1, self._fps)
        self._codec.gop_size = KEYFRAME_S * self._fps
        self._codec.thread_count = 1
        self._codec.color_range, self._codec.colorspace = 1, 1  # 16..235, BT.709
        self._codec.profile = "Baseline"
        self._codec.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "crf": "25",
            "maxrate": "2500k",
            "bufsize": "2500k",
            "level": "31",
        }


def _sound_of(frame: LiveFrame, number: int) -> list[av.AudioFrame]:
    """A frame's sound in Opus' blocks, at its time."""
    samples = np.clip(np.rint(frame.audio * 32768.0), -32768, 32767).astype(np.int16)
    blocks = []
    for start in range(0, len(samples), OPUS_FRAME):
        block = av.AudioFrame.from_ndarray(samples[None, start : start + OPUS_FRAME], format="s16", layout="mono")
        block.sample_rate, block.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
        block.pts = number * len(samples) + start
        blocks.append(block)
    return blocks
