"""What visitors of the page read when something fails. They cannot help it: why it failed is for the operator's log."""

from __future__ import annotations

import logging
import time

from lipsync_client.errors import AudioError, AvatarNotFound, LipsyncError, Overloaded, ServerUnavailable, Timeout

__all__ = ["VoiceError", "for_visitors"]

log = logging.getLogger(__name__)

AGAIN_S = 60.0  # seconds after which the same reason is logged again


class VoiceError(LipsyncError):
    """A text cannot be spoken; the sentence is for whoever wrote it."""


WORDS: tuple[tuple[type[LipsyncError], str], ...] = (  # the first that fits
    (AudioError, "That sound cannot be spoken: try another file."),
    (AvatarNotFound, "This face is not available at the moment."),
    (Overloaded, "The face is too busy at the moment."),
    (Timeout, "The face is too slow at the moment."),
    (ServerUnavailable, "The face is not available at the moment."),
)
OTHERWISE = "The face has failed. Its operator finds the reason in the log."

_logged: dict[str, float] = {}


def for_visitors(failure: LipsyncError) -> str:
    """A sentence without addresses, names of programs or settings. The failure itself is logged as a warning."""
    if isinstance(failure, VoiceError):
        return str(failure)
    reason, now = str(failure), time.monotonic()
    if now - _logged.get(reason, -AGAIN_S) >= AGAIN_S:
        if len(_logged) > 100:
            _logged.clear()
        _logged[reason] = now
        log.warning("The page has no face: %s", reason)
    return next((words for kind, words in WORDS if isinstance(failure, kind)), OTHERWISE)
