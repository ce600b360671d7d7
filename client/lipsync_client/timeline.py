"""Where video frames lie in the speech, and how a speech is cut into requests. Pure functions, no server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from lipsync_client.errors import InvalidRequest, ServerError

__all__ = ["Request", "Timeline"]


@dataclass(frozen=True)
class Request:
    """One request to the server: a slice of speech and the frames wanted of it.

    Attributes:
        audio: mono samples, float32, shape = (n,).
        audio_start: position of audio[0] in the speech, in samples.
        audio_end: True if the audio reaches the end of the speech.
        first_frame: first video frame wanted.
        frame_count: how many; None for as many as the audio allows.
        footage_start: position in the avatar's footage of the first frame; None for the same as first_frame.
        patches: ask for what the mouth changes of each footage frame, instead of whole frames.
    """

    audio: NDArray[np.float32]
    audio_start: int = 0
    audio_end: bool = True
    first_frame: int = 0
    frame_count: int | None = None
    footage_start: int | None = None
    patches: bool = False


@dataclass(frozen=True)
class Timeline:
    """The server's clock, as it publishes it. All counts are samples of speech unless they say frames.

    Attributes:
        sample_rate: samples a second.
        fps: video frames a second.
        samples_before: context that a frame needs before its first sample.
        samples_after: context that a frame needs, counted from its first sample.
        max_frames: frames that one request may ask for.
        max_samples: samples that one request may carry.
    """

    sample_rate: int
    fps: int
    samples_before: int
    samples_after: int
    max_frames: int
    max_samples: int

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Timeline:
        """Read the strings of the model config. Raises ServerError if one is missing or no whole number."""
        values: dict[str, int] = {}
        for field in fields(cls):
            text = parameters.get(field.name)
            if text is None or not text.isdecimal():
                raise ServerError(
                    f"the server publishes no usable {field.name} (found {text!r}): is it a lip-sync server?"
                )
            values[field.name] = int(text)
        timeline = cls(**values)
        if not timeline.fps or timeline.sample_rate % timeline.fps:
            raise ServerError(f"{timeline.sample_rate} samples a second do not divide into {timeline.fps} frames")
        return timeline

    @property
    def samples_per_frame(self) -> int:
        return self.sample_rate // self.fps

    def frame_count(self, samples: int) -> int:
        """Frames shown for a speech of so many samples: the last one may be partly past its end."""
        return -(-samples // self.samples_per_frame)

    def time(self, frame: int) -> float:
        """When a frame is shown, in seconds from the beginning of the speech."""
        return frame / self.fps

    def span(self, first: int, count: int) -> tuple[int, int]:
        """First and last-plus-one sample that frames first .. first+count-1 of an unfinished speech depend on."""
        start = max(0, self.samples_per_frame * first - self.samples_before)
        return start, self.samples_per_frame * (first + count - 1) + self.samples_after

    def frames_within(self, samples: int) -> int:
        """Number of frames, from frame 0 on, whose spans lie within the first `samples` samples of a speech."""
        return max(0, (samples - self.samples_after) // self.samples_per_frame + 1)

    def slice(self, speech: NDArray[np.float32], first: int, count: int) -> tuple[int, NDArray[np.float32]]:
        """The samples that frames first .. first+count-1 depend on.

        The speech counts as followed by `samples_after` zeros, so that its last frames have real context too.

        Returns:
            (start, audio): position of the slice in the speech, and the samples.
        """
        start, stop = self.span(first, count)
        audio = speech[start:stop]
        missing = stop - start - len(audio)
        return start, np.pad(audio, (0, missing)) if missing else audio

    def cut(
        self, speech: NDArray[np.float32], *, first_chunk: int, chunk: int, footage_start: int = 0
    ) -> Iterator[Request]:
        """Cut a speech into requests that cover each of its frames once, in order.

        Args:
            speech: mono samples at `sample_rate`, shape = (n,).
            first_chunk: frames of the first request: a small one gives the first picture sooner.
            chunk: frames of each later request.
            footage_start: position in the avatar's footage of frame 0.
        """
        total = self.frame_count(len(speech))
        first, count = 0, min(first_chunk, total)
        while first < total:
            start, audio = self.slice(speech, first, count)
            # audio_end stays False: with the zeros after the speech every frame has its whole context in the slice,
            # and the server's padding rules for the end of a file are not wanted.
            yield Request(audio, start, False, first, count, footage_start + first)
            first += count
            count = min(chunk, total - first)

    def check_chunks(self, first_chunk: int, chunk: int) -> None:
        """Raise InvalidRequest unless both lie between 1 and what the server allows in one request."""
        for name, value in (("first_chunk", first_chunk), ("chunk", chunk)):
            if not 1 <= value <= self.max_frames:
                raise InvalidRequest(f"{name} is {value}; this server takes 1 to {self.max_frames} frames a request")
