"""What can go wrong, as a small tree: catch `LipsyncError` for everything, or the one you can act on."""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AccessDenied",
    "AudioError",
    "AvatarNotFound",
    "ControlDenied",
    "InvalidRequest",
    "LipsyncError",
    "LoadFailed",
    "Overloaded",
    "ServerError",
    "ServerUnavailable",
    "Timeout",
    "UntrustedServer",
    "VideoError",
    "WrongServer",
]


class LipsyncError(Exception):
    """Base of all errors here. Its text is a sentence or two for a person, with what to do next where that is known."""

    # How often an inference request that failed so may be sent again. Requests carry all they need and the server
    # keeps no state between them, so repeating one is always safe; for most errors it is merely pointless.
    retries: ClassVar[int] = 0


class ServerUnavailable(LipsyncError, ConnectionError):
    """Nobody answers at that address, the connection was lost, or the server is not ready."""

    retries = 7  # 14 to 21 seconds in all: a server that is started anew, or replaced, is back by then


class Overloaded(ServerUnavailable):
    """The server is alive, but has as many requests in flight as it takes."""


class UntrustedServer(ServerUnavailable):
    """TLS failed: the server's certificate is not trusted here or is for another name, or it does not speak TLS."""

    retries = 0


class WrongServer(ServerUnavailable):
    """What answers at that address is no lip-sync server, or it is another port of one."""

    retries = 0


class Timeout(LipsyncError, TimeoutError):
    """No answer within the client's time-out."""

    retries = 1  # more would only add load to a server that is already too slow


class InvalidRequest(LipsyncError, ValueError):
    """The server, or a check before sending, refused the request; the text names the field and what is allowed."""


class AvatarNotFound(LipsyncError, LookupError):
    """No avatar of that name is loaded."""


class ServerError(LipsyncError):
    """The server failed while it worked on the request."""


class AccessDenied(LipsyncError, PermissionError):
    """The server wants a token, or the token is wrong, expired or not allowed to do this."""


class ControlDenied(AccessDenied):
    """Listing, loading and unloading models needs the server's control key."""


class LoadFailed(LipsyncError):
    """The server could not load an avatar; the text gives the failing model's reason."""


class AudioError(LipsyncError):
    """The audio cannot be read: no such file, no sound in it, or empty."""


class VideoError(LipsyncError):
    """The video cannot be written."""
