"""Client of the lip-sync server: speech in, the frames of a talking face out."""

from lipsync_client.aio import AsyncClient
from lipsync_client.avatar_file.packed import PackedError
from lipsync_client.client import Client
from lipsync_client.control.control import AvatarOverview, AvatarState, AvatarStats, Control, ModelState, ServerStatus
from lipsync_client.errors import (
    AudioError,
    AvatarNotFound,
    ControlDenied,
    InvalidRequest,
    LipsyncError,
    LoadFailed,
    Overloaded,
    ServerError,
    ServerUnavailable,
    Timeout,
    VideoError,
)
from lipsync_client.live.frame import LiveFrame
from lipsync_client.live.session import LiveSession
from lipsync_client.media.audio import read_audio, to_speech
from lipsync_client.media.video import write_mp4
from lipsync_client.registry.registry import Registry
from lipsync_client.registry.settings import RegistrySettings, SettingsError
from lipsync_client.timeline import Request, Timeline
from lipsync_client.wire import Avatar, Frame, Result, Timings

__all__ = [
    "AsyncClient",
    "AudioError",
    "Avatar",
    "AvatarNotFound",
    "AvatarOverview",
    "AvatarState",
    "AvatarStats",
    "Client",
    "Control",
    "ControlDenied",
    "Frame",
    "InvalidRequest",
    "LipsyncError",
    "LiveFrame",
    "LiveSession",
    "LoadFailed",
    "ModelState",
    "Overloaded",
    "PackedError",
    "Registry",
    "RegistrySettings",
    "Request",
    "Result",
    "ServerError",
    "ServerStatus",
    "ServerUnavailable",
    "SettingsError",
    "Timeline",
    "Timeout",
    "Timings",
    "VideoError",
    "read_audio",
    "to_speech",
    "write_mp4",
]
