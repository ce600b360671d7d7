"""Writing an avatar's source folder (docs/avatars.md), whole or not at all."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import av
import yaml

from lipsync_mel.timeline import FPS
from lipsync_server.repository.source import Picture, SourceError


def write_folder(target: Path, fill: Callable[[Path], None], replace: bool = False) -> None:
    """Let `fill` write into a draft folder beside `target`, then put it in place.

    Raises:
        SourceError: there is a folder of that name already.
    """
    if target.exists() and not replace:
        raise SourceError(f"{target} is there already: choose another id, or say --replace")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        draft = Path(folder) / "draft"
        draft.mkdir()
        fill(draft)
        if target.exists():
            target.rename(Path(folder) / "old")
        draft.rename(target)


def write_footage(path: Path, frames: Iterable[Picture], *, exact: bool) -> int:
    """Frames (BGR, all of one size) as a video of 25 frames a second.

    Args:
        exact: keep every pixel's value (H.264 without loss, in RGB); else what looks the same at a tenth of the size.

    Returns:
        how many there were.
    """
    count = 0
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264rgb" if exact else "libx264", rate=FPS)
        stream.pix_fmt = "rgb24" if exact else "yuv420p"
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
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("x", "y", "size"))
        table.writerows(boxes)


def write_facts(path: Path, facts: dict[str, object], note: str) -> None:
    """avatar.yaml."""
    text = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=120)
    path.write_text(f"# {note}\n{text}", encoding="utf-8")
