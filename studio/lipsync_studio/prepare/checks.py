"""Checks of footage. Each finding is a sentence that says what is wrong and what to do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lipsync_mel.timeline import FPS, frame_total
from lipsync_studio.evaluation.metrics import QUIET, best_lag, envelope, level
from lipsync_studio.faces.landmarks import CORNERS, EYES, INNER_LIPS
from lipsync_studio.prepare.frame_ranges import frame_ranges
from lipsync_studio.prepare.idle_loop import Loop
from lipsync_studio.prepare.training_folder import Frames

SMALL, TOO_SMALL = 160, 64  # pixels of the crop box: looks blurred in sharp footage; too small for training
LITTLE, WANTED = 20.0, 120.0  # seconds of speech
MEASURABLE = 15.0  # seconds of speech from which an offset can be measured
MAX_OFFSET = 25  # frames that are searched
MOVED = 0.015  # of the eyes' distance: lips that moved from their rest; the landmarks of still lips differ by 0.005
FEW = 5  # frames of a moving mouth that nobody notices
REPORTED, RELIABLE = 1.5, 0.25  # frames of offset that are reported, correlation from which it is reliable


class Shapes(NamedTuple):
    """Opening of the lips and width of the mouth per frame, in units of the eyes' distance; NaN without a face."""

    opening: NDArray[np.float64]
    width: NDArray[np.float64]


def shapes_of(points: NDArray[np.float32]) -> Shapes:
    """Mouth shapes from landmarks [n,468,2]."""

    def distances(pair: tuple[int, int]) -> NDArray[np.float64]:
        return np.asarray(np.linalg.norm(points[:, pair[0]] - points[:, pair[1]], axis=1), np.float64)

    eyes = distances(EYES)
    return Shapes(np.mean([distances(pair) for pair in INNER_LIPS], axis=0) / eyes, distances(CORNERS) / eyes)


def speech_frames(sound: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Frames with speech in a clip's sound: those that are not much quieter than the loud parts. BOOL [frames]."""
    frames = frame_total(len(sound))
    return level(sound, frames) > QUIET if np.any(sound) else np.zeros(frames, bool)


def usable_frames(
    faces: NDArray[np.int64],
    points: NDArray[np.float32],
    boxes: NDArray[np.int64],
    size: NDArray[np.int64],
    given: bool = False,
) -> NDArray[np.bool_]:
    """Frames with exactly one whole face that is large enough.

    Args:
        size: width and height of the frames.
        given: the boxes came with the footage, so a face is in each of them.
    """
    large = inside(boxes, size) & (boxes[:, 2] >= TOO_SMALL)
    return large if given else large & (faces == 1) & np.isfinite(points).all((1, 2))


def inside(boxes: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether crop boxes are inside frames of a width and height."""
    corners = boxes[:, :2] + boxes[:, 2:]
    return np.asarray((boxes[:, :2] >= 0).all(1) & (corners <= size).all(1))


def picture_findings(name: str, frames: Frames, given: bool = False) -> list[str]:
    """Findings on one clip's pictures.

    Args:
        given: the boxes came with the footage.
    """
    found = np.isfinite(frames.points).all((1, 2)) | given
    if not found.any():
        return [
            f"{name}: no face in any of its {len(found)} frames. The face must be seen from the front, upright and "
            "well lit"
        ]
    sentences = []
    if not found.all():
        sentences.append(f"{name}: no face in {frame_ranges(np.flatnonzero(~found).tolist())}; left out")
    several = np.flatnonzero((frames.faces > 1) & (not given)).tolist()
    if several:
        sentences.append(f"{name}: more than one face in {frame_ranges(several)}; left out. Film one person alone")
    cut = np.flatnonzero(found & ~inside(frames.boxes, frames.size)).tolist()
    if cut:
        sentences.append(
            f"{name}: the picture's edge cuts the face in {frame_ranges(cut)}; left out. Chin and both ears must be in "
            "the picture"
        )
    return sentences


def size_findings(sizes: NDArray[np.int64]) -> list[str]:
    """A finding on the size of the faces, from the sizes of all crop boxes with a face."""
    if not len(sizes):
        return []
    size = int(np.median(sizes))
    if size < TOO_SMALL:
        return [f"the face is too small: {size} pixels wide, at least {TOO_SMALL} are needed. Go closer"]
    if size < SMALL:
        return [f"the face is {size} pixels wide: it will look blurred. From {SMALL} pixels on it looks sharp"]
    return []


def speech_findings(seconds: float, usable: float) -> list[str]:
    """A finding on the amount of speech, in seconds: in all, and in usable frames."""
    if seconds == 0:
        return ["there is no sound: the network is trained with speech"]
    if usable < LITTLE:
        return [f"too little speech: {usable:.0f} s. At least {LITTLE:.0f} s are needed, {WANTED:.0f} s are good"]
    if usable < WANTED:
        return [f"little speech: {usable:.0f} s. {WANTED:.0f} s and more are better, 3 to 5 minutes are best"]
    return []


class Offset(NamedTuple):
    """`frames`: by how much the sound is later than the lips. `r`: correlation of lips and loudness at that offset."""

    frames: float
    r: float


def offset_of(openings: list[NDArray[np.float64]], sounds: list[NDArray[np.float32]]) -> Offset | None:
    """Estimate the offset between sound and picture from lips and loudness; None if there is too little speech.

    Args:
        openings: of each clip, the opening of the lips, [frames].
        sounds: of each clip, FP32 [640 * frames].
    """
    lips, loud, speech = [], [], 0
    gap = np.zeros(2 * MAX_OFFSET + 1)  # between clips: longer than any shift
    for opening, sound in zip(openings, sounds, strict=True):
        known = np.isfinite(opening)
        if not known.any():
            continue
        filled = np.interp(np.arange(len(opening)), np.flatnonzero(known), opening[known])
        loudness = envelope(sound, len(opening))
        speech += int(speech_frames(sound).sum())
        lips += [filled - filled.mean(), gap]
        loud += [loudness - loudness.mean(), gap]
    if speech < MEASURABLE * FPS:
        return None
    r, lag, _ = best_lag(np.concatenate(lips), np.concatenate(loud), MAX_OFFSET)
    return Offset(-lag, r)  # lips that come later than the sound: a sound that is early


def offset_findings(offset: Offset | None, late: float = 0.0) -> list[str]:
    """A finding on sound that is out of sync.

    Args:
        late: seconds by which the sound was moved already.
    """
    if offset is None:
        return []
    if offset.r < RELIABLE:
        return [
            f"lips and sound hardly correlate ({offset.r:.2f}, usual is 0.5). Check that this person speaks, and that "
            f"the sound is less than {MAX_OFFSET / FPS:.0f} s from the picture"
        ]
    if abs(offset.frames) < REPORTED:
        return []
    still = offset.frames / FPS
    size = f"{abs(still) * 1000:.0f} ms {'late' if still > 0 else 'early'}"
    return [
        f"sound and picture are out of sync: the sound is about {size} (correlation {offset.r:.2f}). Run the same "
        f"command with --sound-offset {late + still:.2f} --replace"
    ]


def loop_findings(name: str, loop: Loop, shapes: Shapes, speech: NDArray[np.bool_]) -> list[str]:
    """Findings on the idle loop: a mouth that moves in it, and a jump of the lips where it begins again.

    Args:
        name: of its clip.
        loop: in that clip's frames.
        shapes: of all the clip's frames.
        speech: frames of the clip with speech, see `speech_frames`.
    """
    part = slice(loop.first, loop.first + loop.frames)
    opening, width = shapes.opening[part], shapes.width[part]
    known = np.isfinite(opening) & np.isfinite(width)
    if not known.any():
        return []
    rest = np.percentile(opening[known], 10), np.median(width[known])
    moved = np.maximum(np.abs(opening - rest[0]), np.abs(width - rest[1]) / 2)
    moving = np.flatnonzero(known & ((moved > MOVED) | (speech[part] & (moved > MOVED / 2)))) + loop.first
    where = f"{name}: the idle loop, frames {loop.first}-{loop.first + loop.frames - 1}"
    found = []
    if len(moving) >= FEW:
        found.append(
            f"{where}, has a moving mouth in {frame_ranges(moving.tolist())}: the face will not rest while nobody "
            "speaks. Film some 5 s in which the person is silent, with the lips closed"
        )
    ends = np.abs(np.array([opening[-1] - opening[0], (width[-1] - width[0]) / 2]))
    if loop.kind == "forward" and ends.max() > MOVED:  # NaN is not
        found.append(
            f"{where}, ends with other lips than it begins with: frames {loop.first + loop.frames - 1} and "
            f"{loop.first} follow each other, and the mouth jumps there. Film a longer silence"
        )
    return found
