"""LiveKit Agents: a `VideoGenerator` for `AvatarRunner`, and a session that puts it into the agent's own process.

    avatar = LipsyncAvatar("127.0.0.1:8001")
    await avatar.start(session, ctx.room)  # before session.start(...)

Needs the `livekit` extra of this package.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np

from lipsync_client import wire
from lipsync_client.agents.face import AgentFace, rgb
from lipsync_client.aio import AsyncClient
from lipsync_client.errors import InvalidRequest
from lipsync_client.extras import needs

with needs("livekit"):
    from livekit import rtc
    from livekit.agents import AgentSession
    from livekit.agents.voice.avatar import (
        AudioSegmentEnd,
        AvatarOptions,
        AvatarRunner,
        AvatarSession,
        QueueAudioOutput,
        VideoGenerator,
    )

__all__ = ["LipsyncAvatar", "LipsyncVideoGenerator"]

logger = logging.getLogger(__name__)

VIDEO_BITS_PER_S = 2_500_000  # at most
NOBODY = f"no-avatar-{uuid.uuid4().hex}"


class LipsyncVideoGenerator(VideoGenerator):
    """Speech in; pictures, their sound and the ends of speeches out. Open it before use.

    While no server answers, that is logged once, and the speech is heard over the pictures that are here.

    Args:
        servers, token, headers: as for `LiveSession`.
        avatar: whose face.
        sample_rate: of the sound given and of the sound that comes out, a multiple of 25.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | AsyncClient = wire.DEFAULT_URL,
        *,
        avatar: str = wire.SHIPPED_AVATAR,
        sample_rate: int = 24_000,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._face = AgentFace(servers, avatar=avatar, sound_rate=sample_rate, token=token, headers=headers)
        self._synchronizer: rtc.AVSynchronizer | None = None

    async def open(self) -> AvatarOptions:
        """Connect.

        Returns:
            What `AvatarRunner` must know.

        Raises:
            LipsyncError: no server answers; without one the size of the video is unknown.
        """
        await self._face.session.open()
        await self._face.open()
        avatar, line = self._face.session.avatar, self._face.session.timeline
        return AvatarOptions(
            video_width=avatar.frame_width,
            video_height=avatar.frame_height,
            video_fps=line.fps,
            audio_sample_rate=self._face.sound_rate,
            audio_channels=1,
        )

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """The next piece of speech, or its end. Waits while half a minute of it has not been shown yet.

        Raises:
            InvalidRequest: speech at another rate than `sample_rate`, which LiveKit's tracks would not take either.
        """
        if isinstance(frame, AudioSegmentEnd):
            await self._face.end()
            self._face.mark(frame)
        elif frame.sample_rate != self._face.sound_rate:
            raise InvalidRequest(
                f"the speech has {frame.sample_rate} samples a second, but this avatar was made for "
                f"{self._face.sound_rate}; give it sample_rate={frame.sample_rate}"
            )
        else:
            sound = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels)
            await self._face.push(sound, frame.sample_rate)

    async def clear_buffer(self) -> None:
        """Be silent at once: nothing of the speech is given any more, its end included."""
        await self._face.interrupt()
        if self._synchronizer:
            await self._synchronizer.clear_queue()  # the last 0.1 s before the room

    def set_synchronizer(self, synchronizer: rtc.AVSynchronizer) -> None:
        """Tell where the frames go, so that an interruption empties that too."""
        self._synchronizer = synchronizer

    async def aclose(self) -> None:
        """End the iterator and the connections."""
        await self._face.close()

    async def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        async for moment in self._face:
            if moment.error:
                logger.warning("the speech goes on without the avatar: %s", moment.error)
            if moment.jpeg:
                pixels, (width, height) = await asyncio.to_thread(rgb, moment.jpeg)
                if moment.turn == self._face.turn:
                    yield rtc.VideoFrame(width, height, rtc.VideoBufferType.RGB24, pixels)
            if moment.sound is not None and moment.turn == self._face.turn:
                yield rtc.AudioFrame(moment.sound.tobytes(), moment.rate, 1, len(moment.sound))
            for mark in moment.marks:
                if moment.turn == self._face.turn:
                    yield mark


class _Participant:
    """The agent's participant, which publishes a picture once and at its full rate.

    `AvatarRunner` gives no options. LiveKit's default encodes a large picture three times, in software, and gives
    viewers of the smaller copies fewer frames.
    """

    def __init__(self, participant: rtc.LocalParticipant, fps: float) -> None:
        self._participant, self._fps = participant, fps

    async def publish_track(self, track: rtc.LocalTrack, options: rtc.TrackPublishOptions) -> rtc.LocalTrackPublication:
        if track.kind == rtc.TrackKind.KIND_VIDEO:
            encoding = rtc.VideoEncoding(max_bitrate=VIDEO_BITS_PER_S, max_framerate=self._fps)
            single = rtc.TrackPublishOptions(video_codec=rtc.VideoCodec.H264, simulcast=False, video_encoding=encoding)
            options.MergeFrom(single)
        return await self._participant.publish_track(track, options)


class _Room:
    """The agent's room with such a participant in it; everything else is the room's own."""

    def __init__(self, room: rtc.Room, fps: float) -> None:
        self._room, self._fps = room, fps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._room, name)

    @property
    def local_participant(self) -> _Participant:
        return _Participant(self._room.local_participant, self._fps)


class LipsyncAvatar(AvatarSession[Literal["metrics_collected"]]):
    """Gives an agent a face from within its own process: what it says goes through the avatar into the room.

    It is LiveKit's `AvatarSession`, with its metrics and `wait_for_join`. In a job it closes itself at the job's end.

    Args:
        servers, avatar, sample_rate, token, headers: as for `LipsyncVideoGenerator`.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | AsyncClient = wire.DEFAULT_URL,
        *,
        avatar: str = wire.SHIPPED_AVATAR,
        sample_rate: int = 24_000,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._generator = LipsyncVideoGenerator(
            servers, avatar=avatar, sample_rate=sample_rate, token=token, headers=headers
        )
        self._runner: AvatarRunner | None = None
        self._shown_in: rtc.Room | None = None

    @property
    def avatar_identity(self) -> str:
        """The participant that shows the avatar: the agent's own. After `aclose` a name that nobody has."""
        return self._shown_in.local_participant.identity if self._shown_in else NOBODY

    @property
    def provider(self) -> str:
        """Who renders the avatar, for LiveKit's metrics."""
        return "lipsync"

    async def start(self, agent_session: AgentSession[Any], room: rtc.Room) -> None:
        """Call it before the agent session's own `start`. Raises LipsyncError if no server answers."""
        options = await self._generator.open()
        self._shown_in = room
        await super().start(agent_session, room)
        sink = QueueAudioOutput(sample_rate=options.audio_sample_rate, wait_playback_start=True)
        publishing = cast(rtc.Room, _Room(room, options.video_fps))
        self._runner = AvatarRunner(publishing, audio_recv=sink, video_gen=self._generator, options=options)
        self._generator.set_synchronizer(self._runner.av_sync)
        await self._runner.start()
        agent_session.output.replace_audio_tail(sink)

    async def aclose(self) -> None:
        """Take the face out of the room. The agent stays in it."""
        runner, self._runner = self._runner, None
        if runner:
            await runner.aclose()
        await self._generator.aclose()
        self._shown_in = None  # what LiveKit removes from the room is the avatar's participant: here, the agent's
        await super().aclose()
