"""A film of a person who speaks, as the truth for an avatar that speaks the same sound."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from lipsync_mel.timeline import FPS
from lipsync_server.repository.source import SourceError
from lipsync_studio.evaluation import theval
from lipsync_studio.evaluation.mouth_meter import MouthMeter
from lipsync_studio.evaluation.recording import Mouths, RenderedSpeech
from lipsync_studio.faces.finder import FaceFinder
from lipsync_studio.faces.landmarks import FaceMesh
from lipsync_studio.prepare.crop_boxes import raw_boxes, smooth_boxes
from lipsync_studio.prepare.video import frames_of, sound_of

REST_FRAMES = 36  # as for an avatar's footage


def read_film(path: Path, seconds: float) -> RenderedSpeech:
    """The sound of a film, and the mouth of the person in it.

    The film is read three times, because its frames may not fit into memory together.

    Raises:
        SourceError: it is not a video, it has no sound, or no face is found in it.
        DownloadError: a landmark network could not be downloaded.
    """
    limit = round(seconds * FPS)
    finder = FaceFinder()
    found = [finder.detect(frame).points for frame in islice(frames_of(path), limit)]
    nowhere = np.full((468, 2), np.nan)
    points = np.array([nowhere if p is None else p for p in found], np.float32).reshape(-1, 468, 2)
    if not np.isfinite(points).any():
        raise SourceError(f"{path}: no face is found in it")
    boxes = [(int(x), int(y), int(size)) for x, y, size in smooth_boxes(raw_boxes(points))]
    chosen = set(np.linspace(0, len(boxes) - 1, min(REST_FRAMES, len(boxes))).astype(int).tolist())
    rest = {i: frame for i, frame in enumerate(islice(frames_of(path), limit)) if i in chosen}
    try:
        meter = MouthMeter(FaceMesh(), list(rest.values()), [boxes[i] for i in rest])
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None
    mouths = Mouths()
    for frame, box in zip(islice(frames_of(path), limit), boxes, strict=True):
        landmarks = meter.landmarks(frame, box)
        mouths.shapes.append(meter.shape(landmarks, frame, box))
        mouths.lip_openings.append(theval.lip_opening(landmarks))
        mouths.landmarks.append(theval.mouth_landmarks(landmarks))
    return RenderedSpeech(path.stem, sound_of(path, len(boxes), 0.0), film=mouths)
