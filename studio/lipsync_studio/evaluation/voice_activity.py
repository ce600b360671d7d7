"""Which frames have speech, by Silero VAD (MIT). Its network is in the wheel `silero-vad`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipsync_mel.timeline import FPS, SAMPLE_RATE


@functools.cache
def _network() -> Any:
    from silero_vad import load_silero_vad

    return load_silero_vad(onnx=True)


def speech_flags(speech: NDArray[np.float32], frames: int) -> NDArray[np.bool_]:
    """Frames with speech, [frames], with the detector's defaults, as THEval uses it.

    Args:
        speech: FP32 samples at 16 kHz.
    """
    import torch
    from silero_vad import get_speech_timestamps

    flags = np.zeros(frames, bool)
    for span in get_speech_timestamps(torch.from_numpy(np.ascontiguousarray(speech)), _network()):
        first, last = (int(span[end] / SAMPLE_RATE * FPS) for end in ("start", "end"))
        flags[first : last + 1] = True
    return flags
