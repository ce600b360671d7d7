"""Writes an avatar's source folder (docs/avatars.md), completely or not at all."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import av
import yaml

from lipsync_client.media.input_file import ffmpeg_name
from lipsync_mel.timeline import FPS
from lipsync_server.repository.source import Picture, SourceError

BT601, LIMITED_RANGE = 6, 1  # numbers of FFmpeg


class Attribution(NamedTuple):
    """What avatar.yaml states for people; "" where nothing is stated."""

    name: str = ""
    licence: str = ""
    provenance: str = ""

    def stated(self) -> dict[str, str]:
        """Without what is not stated."""
        return {key: text for key, text in self._asdict().items() if text}


def write_folder(target: Path, fill: Callable[[Path], None], replace: bool = False) -> None:
    """Call `fill` with a draft folder beside `target`, then put the draft in place.

    Raises:
        SourceError: the folder exists and `replace` is false.
    """
    refuse_existing(target, replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        draft = Path(folder) / "draft"
        draft.mkdir()
        fill(draft)
        if target.exists():
            target.rename(Path(folder) / "old")
        draft.rename(target)


def refuse_existing(target: Path, replace: bool) -> None:
    """Raises SourceError if the folder exists and must not be replaced."""
    if target.exists() and not replace:
        raise SourceError(f"{target} exists already: choose another id, or give --replace")


def write_footage(path: Path, frames: Iterable[Picture], *, exact: bool) -> int:
    """Write frames (BGR, all of one size) as a video of 25 frames per second.

    Args:
        exact: lossless H.264 in RGB. Otherwise the video looks the same and has a tenth of the size.

    Returns:
        the number of frames.

    Raises:
        SourceError: frames have different sizes.
    """
    count = 0
    with av.open(ffmpeg_name(path), "w") as video:
        stream = video.add_stream("libx264rgb" if exact else "libx264", rate=FPS)
        stream.pix_fmt = "rgb24" if exact else "yuv420p"
        if not exact:  # how the frames below are converted; players, and the reader of videos, take HD as BT.709
            stream.codec_context.colorspace, stream.codec_context.color_range = BT601, LIMITED_RANGE
        stream.options = {"qp": "0", "preset": "fast"} if exact else {"crf": "12", "preset": "fast"}
        for frame in frames:
            if not count:
                stream.height, stream.width = frame.shape[:2]
            if frame.shape[:2] != (stream.height, stream.width):
                raise SourceError(
                    f"frame {count} is {frame.shape[1]} x {frame.shape[0]}, not {stream.width} x {stream.height}: "
                    "all frames of the footage must have one size"
                )
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
            count += 1
        video.mux(stream.encode())
    return count


def write_boxes(path: Path, boxes: Iterable[tuple[int, int, int]]) -> None:
    """Write boxes.csv: x, y and size of each frame's crop box."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("x", "y", "size"))
        table.writerows(boxes)


def write_facts(path: Path, facts: dict[str, object], note: str) -> None:
    """Write avatar.yaml, with a comment in its first line."""
    text = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=120)
    path.write_text(f"# {note}\n{text}", encoding="utf-8")
