"""Client of the lip-sync server: speech in, the frames of a talking face out."""

from importlib import import_module
from typing import TYPE_CHECKING

from lipsync_client.errors import (
    AccessDenied,
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
    UntrustedServer,
    VideoError,
    WrongServer,
)

if TYPE_CHECKING:
    from lipsync_client.aio import AsyncClient
    from lipsync_client.answers import Avatar, Frame, Patch, Result, Timings
    from lipsync_client.avatar_file.names import PackedError
    from lipsync_client.client import Client
    from lipsync_client.control.control import (
        AvatarOverview,
        AvatarState,
        AvatarStats,
        Control,
        ModelState,
        ServerStatus,
    )
    from lipsync_client.live.frame import LiveFrame
    from lipsync_client.live.queue import Mark, SpeechPart
    from lipsync_client.live.session import LiveSession
    from lipsync_client.media.audio import read_audio, to_speech
    from lipsync_client.media.video import write_video
    from lipsync_client.registry.registry import Registry
    from lipsync_client.registry.settings import RegistrySettings, SettingsError
    from lipsync_client.timeline import Request, Timeline

__all__ = [
    "AccessDenied",
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
    "Mark",
    "ModelState",
    "Overloaded",
    "PackedError",
    "Patch",
    "Registry",
    "RegistrySettings",
    "Request",
    "Result",
    "ServerError",
    "ServerStatus",
    "ServerUnavailable",
    "SettingsError",
    "SpeechPart",
    "Timeline",
    "Timeout",
    "Timings",
    "UntrustedServer",
    "VideoError",
    "WrongServer",
    "read_audio",
    "to_speech",
    "write_video",
]

# The other modules are imported when one of their names is first used: FFmpeg, gRPC and numpy take longer to import
# than many programs need to run.
_NAMES = {
    "aio": "AsyncClient",
    "answers": "Avatar Frame Patch Result Timings",
    "avatar_file.names": "PackedError",
    "client": "Client",
    "control.control": "AvatarOverview AvatarState AvatarStats Control ModelState ServerStatus",
    "live.frame": "LiveFrame",
    "live.queue": "Mark SpeechPart",
    "live.session": "LiveSession",
    "media.audio": "read_audio to_speech",
    "media.video": "write_video",
    "registry.registry": "Registry",
    "registry.settings": "RegistrySettings SettingsError",
    "timeline": "Request Timeline",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
