"""What can go wrong before or while the server runs, each told in one sentence."""

from __future__ import annotations

from lipsync_client.errors import LipsyncError


class ServingError(LipsyncError, RuntimeError):
    """The server cannot start or has ended; the message says what to do next."""


class ConfigError(ServingError):
    """`server.yaml` holds something that is not allowed."""
