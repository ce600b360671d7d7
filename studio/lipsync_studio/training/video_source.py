"""Training examples from a person's own video: the face of a frame, and the speech of the same time.

One example is one frame (K = 1). The network's input is the frame with its mouth masked, and another frame of the same
shot with a similar head pose. So it learns to take the pose from the masked frame, and the mouth from the audio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lipsync_composite.geometry import CROP, MARGIN
from lipsync_mel.timeline import FPS, ROWS_BEFORE, ROWS_PER_FRAME
from lipsync_server.repository.source import Picture, SourceError
from lipsync_studio.corpus.features import SpokenFrames
from lipsync_studio.corpus.mouth_curves import MOUTH
from lipsync_studio.faces.landmarks import CORNERS, EYES, UNDER_LIP, UNDER_NOSE
from lipsync_studio.prepare.checks import shapes_of, speech_frames
from lipsync_studio.prepare.idle_loop import cuts_of
from lipsync_studio.prepare.training_folder import Clip
from lipsync_studio.training.unet_examples import WHOLE, Example, FaceRegions, Window

CHIN, NOSE = 152, (168, 6, 1)  # of the face mesh
APART = 8  # frames at least between the two frames: the mouth differs by then
BEGINNING = 0.05  # of the examples become the beginning of a speech, with rows of zeros before the first sound
CANDIDATES = 6  # frames of the shot, of which the one with the most similar pose is taken
INSIDE = CROP - 2 * MARGIN


@dataclass(frozen=True)
class VideoFaceRegions(FaceRegions):
    """The mask hides all of the crop but its rim, so all of it must be learned."""

    @property
    def schedule(self) -> tuple[Window, ...]:
        return (WHOLE, self.mouth, self.chin, self.mouth)


class OwnSpeech(SpokenFrames):
    """The video's frames. The curves "open", "wide" and "press" are measured by landmarks; the others are 0."""

    def pick(self, rng: np.random.Generator, *_: float) -> int:
        """Any frame: pauses have the share that they have in the video."""
        return int(rng.integers(len(self.first_row)))


class VideoSource:
    """A `unet_examples.Source` of prepared clips. Frames are numbered over all clips, one after the other.

    Args:
        clips: see `training_folder`.
        rows: the audio features of each clip, FP16 [frames + 15, 512].
        hold_out: seconds at the end of the footage that are not trained on.

    Attributes:
        regions: the face regions of this person.
        spoken: the frames that are trained on, for `pretrain_audio_branch`.
        held_out: numbers of the usable frames that are not trained on.

    Raises:
        SourceError: too few frames are left to train on.
    """

    def __init__(self, clips: Sequence[Clip], rows: Sequence[NDArray[np.float16]], hold_out: float) -> None:
        self._clips = clips
        lengths = [len(clip.frames.boxes) for clip in clips]
        self._starts = np.cumsum([0, *lengths])
        clip_of = np.repeat(np.arange(len(clips)), lengths)
        first_row = np.arange(len(clip_of)) + clip_of * (ROWS_PER_FRAME - 1)  # each clip has so many rows more
        usable = np.concatenate([clip.frames.usable for clip in clips])
        last = max(0, len(usable) - round(hold_out * FPS))
        self._trained, self.held_out = np.flatnonzero(usable[:last]), last + np.flatnonzero(usable[last:])
        if len(self._trained) < FPS:
            raise SourceError(f"{len(self._trained)} frames are left to train on: film more, or hold out less")
        new_shot = np.concatenate([_new_shots(clip) for clip in clips])
        new_shot[last : last + 1] = True  # a held-out frame is not the other frame of a trained one either
        self._shot = np.cumsum(new_shot) - 1
        self._shots = [part[usable[part]] for part in np.split(np.arange(len(usable)), np.flatnonzero(new_shot)[1:])]
        points = np.concatenate([_in_crop(clip) for clip in clips])
        self._pose = np.nan_to_num(points[:, [*EYES, *NOSE]].reshape(len(points), -1), nan=np.inf)
        self.regions = face_regions_of(points[self._trained])
        stacked = np.concatenate(rows)
        curves, silent = np.concatenate([_curves(clip) for clip in clips]), np.concatenate([_silent(c) for c in clips])
        self._all = SpokenFrames(stacked, first_row, curves, silent)
        known = self._trained[np.isfinite(points[self._trained]).all((1, 2))]
        self.spoken = OwnSpeech(stacked, first_row[known], curves[known], silent[known])

    def example(self, rng: np.random.Generator) -> Example:
        return self.example_of(int(rng.choice(self._trained)), rng)

    def example_of(self, frame: int, rng: np.random.Generator) -> Example:
        """A frame with its audio, and another frame of its shot."""
        picture, audio = self._crop(frame), self._all.audio(frame)
        if rng.random() < BEGINNING:
            audio.reshape(ROWS_PER_FRAME, 512)[: rng.integers(1, ROWS_BEFORE + 1)] = 0
        return Example(self._crop(self._other(frame, rng)), picture, audio[None], picture[None])

    def _other(self, frame: int, rng: np.random.Generator) -> int:
        shot = self._shots[self._shot[frame]]
        apart = shot[np.abs(shot - frame) >= APART]
        tried = rng.choice(apart if len(apart) else shot, CANDIDATES)
        away = np.abs(self._pose[tried] - self._pose[frame]).sum(1) if np.isfinite(self._pose[frame]).all() else [0]
        return int(tried[np.argmin(away)])

    def _crop(self, frame: int) -> Picture:
        at = int(np.searchsorted(self._starts, frame, side="right")) - 1
        return self._clips[at].crop(frame - int(self._starts[at]))


def _new_shots(clip: Clip) -> NDArray[np.bool_]:
    """Frames that begin a shot: after a cut, and the clip's first one."""
    result = cuts_of(clip.frames.looks)
    result[0] = True
    return result


def _in_crop(clip: Clip) -> NDArray[np.float32]:
    """Landmarks in pixels of the crops, [n,468,2]."""
    boxes = clip.frames.boxes[:, None].astype(np.float32)
    return np.asarray((clip.frames.points - boxes[..., :2]) * (CROP / np.maximum(boxes[..., 2:], 1)) - MARGIN)


def face_regions_of(points: NDArray[np.float32]) -> VideoFaceRegions:
    """The face regions of a person, from landmarks in crops [n,468,2]; those of an average face if there are none.

    Windows begin and end at multiples of 8.
    """
    known = points[np.isfinite(points).all((1, 2))]
    if not len(known):
        known = np.full((1, 468, 2), 160, np.float32)
        known[:, [*CORNERS]] += np.array([[-60, 0], [60, 0]])
        known[:, [UNDER_NOSE, UNDER_LIP, CHIN], 1] += np.array([-45, 45, 100])
    left, right = np.percentile(known[:, CORNERS[0], 0], 2), np.percentile(known[:, CORNERS[1], 0], 98)
    top, low = np.percentile(known[:, UNDER_NOSE, 1], 2), np.percentile(known[:, UNDER_LIP, 1], 98)
    chin, beside = np.percentile(known[:, CHIN, 1], 98), (right - left) / 8

    def span(first: float, last: float) -> slice:
        return slice(int(max(0, first // 8 * 8)), int(min(INSIDE, -(-last // 8) * 8)))

    across = span(left - beside, right + beside)
    return VideoFaceRegions(
        mouth=(span(top, low + 8), across),
        chin=(span(top, chin + 16), span(left - 2 * beside, right + 2 * beside)),
        centre=((top + low) / 2, (left + right) / 2),
        radius=((low - top) / 2, (right - left) / 2),
    )


def _curves(clip: Clip) -> NDArray[np.float32]:
    """Mouth curves [n,7] as in `MOUTH`, from landmarks; NaN where there are none."""
    shapes = shapes_of(clip.frames.points)
    result = np.zeros((len(shapes.opening), len(MOUTH)), np.float32)
    for name, curve in (("open", shapes.opening), ("wide", shapes.width)):
        known = curve[np.isfinite(curve)]
        low, high = np.percentile(known, (5, 95)) if len(known) else (0.0, 1.0)
        result[:, MOUTH.index(name)] = ((curve - low) / max(high - low, 1e-6)).clip(0, 1)
    result[:, MOUTH.index("press")] = result[:, MOUTH.index("open")] < 0.05
    return result


def _silent(clip: Clip) -> NDArray[np.bool_]:
    return ~speech_frames(clip.sound)
