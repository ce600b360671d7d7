"""What the web server may be told, and the limits of a connection."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Settings of the web server.

    Attributes:
        token: what a page must know to be served; None: nothing.
        allow_origins: origins, as "https://talk.example.org", whose pages may connect besides the server's own.
        loopback: only this machine is served, so a request for any other host name is an attack on it.
        max_sessions: connections that are served at once.
        idle_s: seconds after which a connection that nobody uses is ended.
        hello_s: seconds that a connection may take to say hello, and to take a frame.
        waiting_s: seconds of sound of one connection that may wait for their turn.
        window: frames on their way to a browser; a slow one slows its own session.
        messages_per_s: of one connection, not counting that frames were taken.
        text_chars: length of a text to speak.
        max_viewers: viewers over WebRTC at once; each has a session and an encoder of its own.
        ice_servers: STUN and TURN servers for them, such as "stun:stun.example.org:3478".
        max_videos: videos that are made at once.
        video_s: seconds that a video may last.
        upload_bytes: of a sound file.
        upload_s: seconds that a request for a video may take to arrive and to be spoken.
        taking_s: seconds that a caller may take for a piece of a video.
        mark: say in the metadata of videos that AI made them; without it, you must tell viewers in another way.
        patience_s: seconds that a failing request is repeated before the page is told.
    """

    token: str | None = None
    allow_origins: tuple[str, ...] = ()
    loopback: bool = True
    max_sessions: int = 8
    idle_s: float = 600.0
    hello_s: float = 10.0
    waiting_s: float = 30.0
    window: int = 25
    messages_per_s: int = 500
    text_chars: int = 500
    max_viewers: int = 4
    ice_servers: tuple[str, ...] = ()
    max_videos: int = 2
    video_s: float = 600.0
    upload_bytes: int = 64 << 20
    upload_s: float = 60.0
    taking_s: float = 30.0
    mark: bool = True
    patience_s: float = 4.0
