"""Pieces of speech without a position, as the monolithic API sends them, joined where they follow each other."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from lipsync_client.timeline import Request
from lipsync_mel.timeline import SAMPLES_AFTER, SAMPLES_BEFORE, SAMPLES_PER_FRAME

__all__ = ["EXTRA_FRAMES", "SpeechRuns"]

LEAD_FRAMES = 8  # with these the audio begins before the first frame, where it is long enough
EXTRA_FRAMES = 15
MAX_RUNS = 256  # callers' speeches that are remembered, 50 kB each
_State = tuple[int, NDArray[np.float32]]  # position of the next frame in the speech, and the samples before it


class SpeechRuns:
    """What was heard last of each caller's speech by each avatar.

    A piece continues the speech where its footage goes on where that of the piece before ended. Then its frames get the
    context before it that they need. Nothing is known of what comes after it, so silence is assumed there.
    """

    def __init__(self) -> None:
        self._runs: OrderedDict[tuple[str, str], dict[int, _State]] = OrderedDict()

    def request(self, caller: str, avatar: str, audio: NDArray[np.float32], count: int, footage_start: int) -> Request:
        """A piece of speech as a request that the pipeline takes.

        Args:
            caller: whose speech it is: a connection.
            avatar: its id.
            audio: samples at 16 kHz, shape = (n,). With `count` + 15 frames of samples or more it begins 8 frames
                before the first frame, or at the beginning of the footage. Else it begins at the first frame, and zeros
                are appended where it is too short.
            count: frames wanted.
            footage_start: position in the footage of the first frame.
        """
        lead = min(footage_start, LEAD_FRAMES) if len(audio) >= (count + EXTRA_FRAMES) * SAMPLES_PER_FRAME else 0
        states = self._runs.pop((caller, avatar), {})
        before = states.get(footage_start)
        first, heard = before or (lead, np.zeros(0, np.float32))
        known = heard[: max(0, len(heard) - lead * SAMPLES_PER_FRAME)]  # the rest of it is in the audio again
        start = max(0, first - lead) * SAMPLES_PER_FRAME - len(known)
        stop = (first + count - 1) * SAMPLES_PER_FRAME + SAMPLES_AFTER
        speech = np.concatenate([known, audio])[: stop - start]
        speech = np.pad(speech, (0, stop - start - len(speech)))

        end = (first + count) * SAMPLES_PER_FRAME
        after = (first + count, speech[max(0, end - SAMPLES_BEFORE - start) : end - start].copy())
        kept = {footage_start: before} if before else {}  # the same piece may be sent again
        self._runs[caller, avatar] = {**kept, footage_start + count: after}
        if len(self._runs) > MAX_RUNS:
            self._runs.popitem(last=False)
        return Request(speech, start, False, first, count, footage_start)
