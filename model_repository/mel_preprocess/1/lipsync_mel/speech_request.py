"""Checks one request to the pipeline and fills in its defaults. Every refusal is one sentence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipsync_mel import timeline

LOUDEST = 10.0  # of samples that should lie in -1..1: more are on another scale


@dataclass(frozen=True)
class SpeechRequest:
    """A checked request, made by `parse`. Positions are samples (audio) and frames (footage, first_frame)."""

    audio: NDArray[np.float32]  # [n]
    audio_start: int
    samples: int | None  # length of the whole speech, None while it is unfinished
    first_frame: int
    frame_count: int
    footage_start: int


def _position(name: str, value: int | None, default: int, largest: int) -> int:
    if value is None:
        return default
    if not 0 <= value <= largest:
        raise ValueError(f"{name} is {value}: it must be from 0 to {largest}")
    return value


def _check_audio(audio: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if audio is None:
        raise ValueError("AUDIO is missing: send mono 16 kHz samples as FP32 [n]")
    if audio.size == 0:
        raise ValueError("AUDIO is empty: send at least 1 sample")
    if audio.size > timeline.MAX_SAMPLES:
        raise ValueError(
            f"AUDIO has {audio.size} samples: at most {timeline.MAX_SAMPLES} (30 minutes) are allowed in a request"
        )
    finite = np.isfinite(audio)
    if not finite.all():
        place = int(np.argmin(finite))
        raise ValueError(f"AUDIO[{place}] is {audio[place]}: every sample must be finite")
    peak = float(np.abs(audio).max())
    if peak > LOUDEST:
        raise ValueError(f"AUDIO reaches {peak:.0f}: samples must lie in -1..1 (divide 16-bit ones by 32768)")
    return audio


def _frames_available(audio_stop: int, at_end: bool) -> int:
    """The number n of frames, 0 .. n-1, whose look-ahead is in the audio."""
    if at_end:
        return timeline.frame_total(audio_stop)
    return max(0, (audio_stop - timeline.SAMPLES_AFTER) // timeline.SAMPLES_PER_FRAME + 1)


def parse(
    audio: NDArray[np.float32] | None,
    audio_start: int | None = None,
    audio_end: bool | None = None,
    first_frame: int | None = None,
    frame_count: int | None = None,
    footage_start: int | None = None,
    visual_count: int | None = None,
) -> SpeechRequest:
    """Check a request's inputs (None: not sent) and fill in the defaults.

    `visual_count` is the number of VISUAL_FRAMES, and the default of FRAME_COUNT; None if the model takes none.

    Raises:
        ValueError: with a sentence that names the field, its value and what is allowed.
    """
    speech = _check_audio(audio)
    start = _position("AUDIO_START", audio_start, 0, timeline.MAX_SAMPLE)
    at_end = True if audio_end is None else audio_end
    first = _position("FIRST_FRAME", first_frame, 0, timeline.MAX_FRAME)
    footage = _position("FOOTAGE_START", footage_start, first, timeline.MAX_FRAME)
    if frame_count is not None and not 1 <= frame_count <= timeline.MAX_FRAMES:
        raise ValueError(f"FRAME_COUNT is {frame_count}: it must be from 1 to {timeline.MAX_FRAMES}")

    if visual_count is not None:
        frame_count = _check_visual(visual_count, frame_count)

    stop = start + speech.size
    available = _frames_available(stop, at_end)
    last = first + (frame_count or 1) - 1
    if last >= available:
        raise ValueError(_too_late(first, last, stop, at_end, available))
    earliest, _ = timeline.samples_needed(first, 1)
    if start > earliest:
        raise ValueError(
            f"AUDIO_START is {start}: FIRST_FRAME {first} needs the speech from sample {earliest} on, "
            f"so {start - earliest} samples are missing before AUDIO"
        )
    return SpeechRequest(
        audio=speech,
        audio_start=start,
        samples=stop if at_end else None,
        first_frame=first,
        frame_count=frame_count or min(timeline.MAX_FRAMES, available - first),
        footage_start=footage,
    )


def _check_visual(visual_count: int, frame_count: int | None) -> int:
    if visual_count == 0:
        raise ValueError("VISUAL_FRAMES is missing: send FP32 [N, 6, 320, 320], one for each of the FRAME_COUNT frames")
    if visual_count != (frame_count or visual_count) or visual_count > timeline.MAX_FRAMES:
        wanted = f"{frame_count}, as FRAME_COUNT says" if frame_count else f"at most {timeline.MAX_FRAMES}"
        raise ValueError(f"VISUAL_FRAMES has {visual_count} frames: it must have {wanted}")
    return visual_count


def _too_late(first: int, last: int, stop: int, at_end: bool, available: int) -> str:
    asked = f"FIRST_FRAME is {first}" if first == last else f"FIRST_FRAME is {first} and FRAME_COUNT {last - first + 1}"
    if at_end:
        return f"{asked}: a speech that ends at sample {stop} has the frames 0 to {available - 1} only"
    needed = last * timeline.SAMPLES_PER_FRAME + timeline.SAMPLES_AFTER
    return (
        f"{asked}: frame {last} needs the speech up to sample {needed}, AUDIO ends at {stop}, "
        f"so {needed - stop} samples are missing (or AUDIO_END, if the speech ends there)"
    )
