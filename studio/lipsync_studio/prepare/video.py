"""Reads a video on the product's timeline: 25 upright frames per second, and their sound at 16 kHz."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from numpy.typing import NDArray

from lipsync_client.errors import AudioError
from lipsync_client.media.audio import read_audio
from lipsync_client.media.input_file import ffmpeg_name, main_track
from lipsync_mel.timeline import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from lipsync_server.repository.source import Picture, SourceError
from lipsync_studio.prepare.colours import colour_finding, picture_of

LONGEST_SIDE = 1920  # pixels: larger frames cost time in every request, and the network's picture has only 320


def open_video(path: Path) -> Any:
    """The container.

    Raises:
        SourceError: the file is not a video.
    """
    if not path.is_file():
        raise SourceError(f"there is no file {path}")
    try:
        container = av.open(ffmpeg_name(path))
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"{path} cannot be read as a video ({error})") from None
    if not container.streams.video:
        container.close()
        raise SourceError(f"{path} has no picture track")
    return container


def is_film(track: Any) -> bool:
    """Whether a track of pictures is no cover or thumbnail."""
    return not track.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)


def picture_track(container: Any) -> Any:
    """The track of pictures that players show: the default one of those that are films, else the first."""
    tracks = container.streams.video
    return main_track([track for track in tracks if is_film(track)] or tracks)


def track_finding(path: Path) -> str | None:
    """Which track is read, if a video has several, as the end of a sentence that begins with the file's name."""
    with open_video(path) as container:
        films = [track for track in container.streams.video if is_film(track)]
        if len(films) < 2:
            return None
        at = films.index(picture_track(container)) + 1
        return f"it has {len(films)} tracks of pictures; track {at} is used, as players do"


def refuse_picture(path: Path) -> None:
    """Raises SourceError if a file is a single picture, or no video at all."""
    with open_video(path) as container:
        if len(list(islice(_decoded(container, path), 2))) < 2:
            raise SourceError(f"{path} is one picture: an avatar is made from a video in which the person speaks")


def colours_finding(path: Path) -> str | None:
    """What is unusual about a video's colours, see `colour_finding`."""
    with open_video(path) as container:
        return next((colour_finding(frame) for frame in _decoded(container, path)), None)


def frames_of(path: Path) -> Iterator[Picture]:
    """The video at 25 frames per second: frame i is the nearest one to i/25 s after the first. BGR, see `upright`.

    Raises:
        SourceError: the video cannot be read.
    """
    number, last, last_time, step = 0, None, 0.0, 1 / FPS
    with open_video(path) as container:
        stream, start = picture_track(container), None
        pixel = float(stream.sample_aspect_ratio or 1)
        for index, frame in enumerate(_decoded(container, path)):
            time = frame.time if frame.time is not None else index / float(stream.average_rate or FPS)
            start = time if start is None else start
            time -= start
            if last is not None:
                if time <= last_time:
                    continue  # a time stamp before the last one: players skip such a frame
                step = time - last_time
                shown = None
                while number / FPS < (last_time + time) / 2:
                    shown = upright(last, pixel) if shown is None else shown
                    yield shown
                    number += 1
            last, last_time = frame, time
        while last is not None and number / FPS < last_time + min(step, 1.0) / 2:
            yield upright(last, pixel)
            number += 1


def frame_estimate(path: Path) -> int | None:
    """About how many frames `frames_of` gives; None if the file does not state its duration."""
    with open_video(path) as container:
        stream = picture_track(container)
        if stream.duration and stream.time_base:
            return round(float(stream.duration * stream.time_base) * FPS)
        return round(container.duration / av.time_base * FPS) if container.duration else None


def _decoded(container: Any, path: Path) -> Iterator[Any]:
    stream = picture_track(container)
    stream.thread_type = "AUTO"
    try:
        yield from container.decode(stream)
    except av.FFmpegError as error:
        raise SourceError(f"{path} cannot be read to its end ({error})") from None


def upright(frame: Any, pixel: float = 1.0) -> Picture:
    """A decoded frame as a player shows it: turned by its display matrix, at most 1920 pixels long, with even sides.

    Args:
        pixel: the sample aspect ratio, width of a stored pixel over its height.
    """
    picture = picture_of(frame)
    height, width = picture.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width * pixel))
    if pixel != 1 or scale < 1:
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        size = round(width * pixel * scale), round(height * scale)
        picture = np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)
    return even(oriented(picture, display_matrix(frame)))


def display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """The part [a b; c d] of a frame's display matrix: a stored column x and row y are shown at (ax + cy, bx + dy)."""
    stored = frame.side_data.get(Type.DISPLAYMATRIX)
    if stored is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(stored), np.int32)[:5].tolist()
    return a, b, c, d


def oriented(picture: Picture, matrix: tuple[int, int, int, int]) -> Picture:
    """A picture turned and mirrored as a display matrix says, to the nearest of the eight orientations."""
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):  # columns are shown as rows
        picture, right, down = picture.transpose(1, 0, 2), c, b
    else:
        right, down = a, d
    return picture[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]


def even(picture: Picture) -> Picture:
    """The picture without its last row or column if their number is odd: video stores colours for pairs of pixels."""
    height, width = picture.shape[:2]
    return np.ascontiguousarray(picture[: height // 2 * 2, : width // 2 * 2])


def sound_of(path: Path, frames: int, late: float = 0.0) -> NDArray[np.float32]:
    """The sound of `frames` frames, FP32 [640 * frames] in [-1, 1]; sample 0 is at the first frame's time.

    Silence if the file has no sound, or where it ends earlier.

    Args:
        path: a video, or a sound file that begins with the first frame.
        late: seconds by which the sound is later than the lips; it is moved to an earlier time by as much.
    """
    try:
        sound = read_audio(path)
        with av.open(ffmpeg_name(path)) as container:
            has_picture = any(map(is_film, container.streams.video))
    except (AudioError, av.FFmpegError):
        return np.zeros(frames * SAMPLES_PER_FRAME, np.float32)
    begins = _first_time(path, "audio") - _first_time(path, "video") if has_picture else 0.0
    shift = round((begins - late) * SAMPLE_RATE)
    sound = np.pad(sound, (shift, 0)) if shift > 0 else sound[-shift:]
    wanted = frames * SAMPLES_PER_FRAME
    return np.pad(sound[:wanted], (0, max(0, wanted - len(sound)))).astype(np.float32)


def _first_time(path: Path, kind: str) -> float:
    """Presentation time of a track's first frame, seconds."""
    with open_video(path) as container:
        track = picture_track(container) if kind == "video" else main_track(container.streams.audio)
        for frame in container.decode(track):
            if frame.time is not None:
                return float(frame.time)
    return 0.0
