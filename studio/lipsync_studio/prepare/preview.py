"""The preview sheet, which a person should look at before a training of hours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from lipsync_mel.timeline import FPS
from lipsync_server.repository.source import Picture
from lipsync_studio.faces.landmarks import CORNERS, EYES, INNER_LIPS
from lipsync_studio.prepare.checks import shapes_of, speech_frames
from lipsync_studio.prepare.idle_loop import Loop
from lipsync_studio.prepare.inputs import Input
from lipsync_studio.prepare.training_folder import Clip

PICTURES, SIDE = 6, 240  # in a row, pixels of each
WIDTH = PICTURES * SIDE
SHOWN = 30  # seconds of curves
GREEN, ORANGE, BLUE, GREY = (80, 200, 80), (60, 160, 255), (220, 140, 40), (150, 150, 150)
FrameId = tuple[int, int]  # clip, frame


class Row(NamedTuple):
    """A row of pictures with a title."""

    title: str
    pictures: list[Picture]


def preview(inputs: Sequence[Input], clips: Sequence[Clip], loop_clip: int, loop: Loop) -> Picture:
    """A sheet of whole frames with boxes, face crops of the extremes, the idle loop, and lips with speech.

    Args:
        loop_clip: number of the clip that has the idle loop.
    """
    usable = [(c, int(f)) for c, clip in enumerate(clips) for f in np.flatnonzero(clip.frames.usable)]
    spread = [usable[i] for i in np.linspace(0, len(usable) - 1, PICTURES).astype(int)]
    idle = [(loop_clip, int(f)) for f in np.linspace(loop.first, loop.first + loop.frames - 1, PICTURES)]
    titles = ("widest open", "most closed", "furthest left", "furthest right", "smallest", "largest")
    rows = [
        Row(
            "The whole footage: is the box around the face, from the eyes to under the chin?",
            _marked(inputs, clips, spread),
        ),
        Row("Extremes: " + ", ".join(titles), [_small(clips[c].crop(f)) for c, f in _extremes(clips, usable)]),
        Row(
            f"The idle loop, {loop.frames / FPS:.1f} s, {loop.kind}: is the mouth at rest?",
            [_small(clips[c].crop(f)) for c, f in idle],
        ),
    ]
    parts = [part for row in rows for part in (_title(row.title), np.hstack(row.pictures))]
    curves = _curves(clips)
    legend = f"Opening of the lips (blue) and speech (orange), first {SHOWN} s: do they go together?"
    return np.vstack([*parts, _title(legend), curves])


def _extremes(clips: Sequence[Clip], usable: list[FrameId]) -> list[FrameId]:
    boxes = np.array([clips[c].frames.boxes[f] for c, f in usable])
    shapes = [shapes_of(clip.frames.points).opening for clip in clips]
    opening = np.array([shapes[c][f] for c, f in usable])
    middle = boxes[:, 0] + boxes[:, 2] / 2
    if not np.isfinite(opening).any():
        opening = np.zeros(len(usable))
    chosen = (
        np.nanargmax(opening),
        np.nanargmin(opening),
        np.argmin(middle),
        np.argmax(middle),
        np.argmin(boxes[:, 2]),
        np.argmax(boxes[:, 2]),
    )
    return [usable[int(i)] for i in chosen]


def _marked(inputs: Sequence[Input], clips: Sequence[Clip], wanted: list[FrameId]) -> list[Picture]:
    """Whole frames with crop box, and the points of eyes and lips."""
    marked: dict[FrameId, Picture] = {}
    for clip in sorted({c for c, _ in wanted}):
        numbers = {f for c, f in wanted if c == clip}
        for number, picture in enumerate(inputs[clip].frames()):
            if number in numbers:
                marked[clip, number] = _mark(picture, clips[clip], number)
            if number >= max(numbers):
                break
    return [marked[frame] for frame in wanted]


def _mark(picture: Picture, clip: Clip, number: int) -> Picture:
    scale = SIDE / max(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    x, y, size = (clip.frames.boxes[number] * scale).astype(int).tolist()
    cv2.rectangle(small, (x, y), (x + size, y + size), GREEN, 1)
    points = clip.frames.points[number]
    if np.isfinite(points).all():
        for index in (*EYES, *CORNERS, *sum(INNER_LIPS, ())):
            cv2.circle(small, np.rint(points[index] * scale).astype(int).tolist(), 1, ORANGE, -1)
    sheet = np.full((SIDE, SIDE, 3), 255, np.uint8)
    top, left = (SIDE - small.shape[0]) // 2, (SIDE - small.shape[1]) // 2
    sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def _small(crop: Picture) -> Picture:
    return np.asarray(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _title(text: str) -> Picture:
    bar = np.full((28, WIDTH, 3), 255, np.uint8)
    cv2.putText(bar, text, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
    return bar


def _curves(clips: Sequence[Clip], height: int = 120) -> Picture:
    """Opening of the lips above the frames with speech. Clips follow each other, with grey lines between them."""
    opening, speech, ends, count = [], [], [], 0
    for clip in clips:
        opening.append(shapes_of(clip.frames.points).opening)
        speech.append(speech_frames(clip.sound))
        count += len(opening[-1])
        ends.append(count)
        if count >= SHOWN * FPS:
            break
    lips, spoken = (np.concatenate(parts)[: SHOWN * FPS] for parts in (opening, speech))
    sheet = np.full((height, WIDTH, 3), 255, np.uint8)
    step = WIDTH / max(len(lips), 1)
    for i in np.flatnonzero(spoken):
        cv2.rectangle(sheet, (int(i * step), height - 10), (int((i + 1) * step), height - 2), ORANGE, -1)
    for end in ends[:-1]:
        cv2.line(sheet, (int(end * step), 0), (int(end * step), height), GREY, 1)
    top = float(np.nanmax(lips)) if np.isfinite(lips).any() else 1.0
    line = [
        (int((i + 0.5) * step), int((height - 16) * (1 - value / top)) + 2)
        for i, value in enumerate(lips)
        if np.isfinite(value)
    ]
    cv2.polylines(sheet, [np.array(line, np.int32).reshape(-1, 1, 2)], False, BLUE, 1, cv2.LINE_AA)
    return sheet
