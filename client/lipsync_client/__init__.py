"""Client of the lip-sync server: speech in, the frames of a talking face out."""

from .aio import AsyncClient
from .audio import read_audio, to_speech
from .client import Client
from .control import AvatarOverview, AvatarState, AvatarStats, Control, ModelState, ServerStatus
from .errors import (
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
from .live import LiveSession
from .live_frame import LiveFrame
from .packed import PackedError
from .registry import Registry
from .registry_settings import RegistrySettings, SettingsError
from .timeline import Request, Timeline
from .video import write_mp4
from .wire import Avatar, Frame, Result, Timings

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
