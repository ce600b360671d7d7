"""The clock of the product: speech samples at 16 kHz, and which of them a video frame needs.

All positions are absolute in the speech, in exact integer arithmetic. So a slice of a speech gives the same result as
the whole speech. The rules are exactly those of SyncTalk_2D's inference script, also at the edges.

    sample --(hop 200)--> mel frame --(16 in a window, 5 windows per 16 hops)--> window --(one repeated at each end)-->
    feature row --(16 rows, i-8 .. i+7)--> video frame i, shown at i/25 s
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
FPS = 25
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS  # 640

HOP = 200  # samples between mel frames
FFT_SIZE = 800  # samples in a mel frame, centred on its position
MELS = 80
WINDOW = 16  # mel frames in one window of the audio encoder
ROWS_BEFORE = 8  # frame i reads rows i-8 .. i+7 of the feature list
ROWS_PER_FRAME = 16
MIN_SAMPLES = 5_600  # shorter speech is extended with zeros: the reference needs this many for its first rows

MAX_FRAMES = 32  # in one request
MAX_SAMPLES = 30 * 60 * SAMPLE_RATE  # 28,800,000 in one request
MAX_FRAME = 2**31 - 1 - MAX_FRAMES  # 2.7 years: OpenVINO, where it runs the network, computes positions in 32 bits
MAX_SAMPLE = MAX_FRAME * SAMPLES_PER_FRAME

# Frame i needs windows i-9 .. i+6. The earliest sample: 640(i-9) less the 160 lost to flooring 16k//5, less half an
# FFT window, less one for pre-emphasis. The latest (exclusive): 640(i+6) + 15 hops + half an FFT window.
SAMPLES_BEFORE = 9 * SAMPLES_PER_FRAME + 160 + FFT_SIZE // 2 + 1  # 6,321 before the frame's own first sample
SAMPLES_AFTER = 6 * SAMPLES_PER_FRAME + 15 * HOP + FFT_SIZE // 2  # 7,240 after it: the look-ahead, 0.45 s

PUBLISHED = {  # the parameters of this model's config, which clients read
    "sample_rate": SAMPLE_RATE,
    "fps": FPS,
    "samples_before": SAMPLES_BEFORE,
    "samples_after": SAMPLES_AFTER,
    "max_frames": MAX_FRAMES,
    "max_samples": MAX_SAMPLES,
}


def frame_total(samples: int) -> int:
    """Number of video frames of a whole speech of `samples` samples: ceil(samples / 640)."""
    return -(-samples // SAMPLES_PER_FRAME)


def samples_needed(first_frame: int, count: int) -> tuple[int, int]:
    """First and last-plus-one sample that frames first_frame .. first_frame+count-1 of an unfinished speech need."""
    last = first_frame + count - 1
    return max(0, first_frame * SAMPLES_PER_FRAME - SAMPLES_BEFORE), last * SAMPLES_PER_FRAME + SAMPLES_AFTER


def mel_total(samples: int) -> int:
    """Number of mel frames of a whole speech, extended to at least 5,600 samples: F = 1 + n//200."""
    return 1 + max(samples, MIN_SAMPLES) // HOP


def window_total(mel_frames: int) -> int:
    """Number of encoder windows of a whole speech.

    It uses floating point on purpose, as the reference does: integer arithmetic differs, first at F = 384.
    """
    return int((mel_frames - WINDOW) / 80.0 * 25) + 2


def row_windows(first_frame: int, count: int, samples: int | None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The start of each feature row of some frames on the mel spectrogram.

    Args:
        first_frame, count: the frames; they read the count+15 rows first_frame-8 .. first_frame+count+6.
        samples: length of the whole speech, or None while it is unfinished (then no end rule applies).

    Returns:
        starts INT64 [rows], the first mel frame of the row's window (0 for rows outside the list), and
        inside BOOL [rows], false for rows outside the feature list, whose features are zeros.
    """
    rows = np.arange(count + ROWS_PER_FRAME - 1, dtype=np.int64) + (first_frame - ROWS_BEFORE)
    windows = np.maximum(rows - 1, 0)  # row 0 repeats window 0, row r is window r-1
    inside = rows >= 0
    if samples is None:
        return np.where(inside, 16 * windows // 5, 0), inside
    mel_frames = mel_total(samples)
    total = window_total(mel_frames)
    inside &= rows <= total + 1  # row W+1 repeats window W-1
    starts = np.minimum(16 * np.minimum(windows, total - 1) // 5, mel_frames - WINDOW)
    return np.where(inside, starts, 0), inside
