"""Videos with several tracks of pictures: angles, depth, covers, thumbnails."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from lipsync_server.repository.source import SourceError
from lipsync_studio.prepare.inputs import open_input
from lipsync_studio.prepare.video import frame_estimate, frames_of

NONE, DEFAULT, COVER = Disposition(0), Disposition.default, Disposition.attached_pic


def write(path: Path, tracks: list[tuple[Disposition, int]]) -> Path:
    """Plain grey tracks of 64 x 48 pixels and 5 frames, those that are covers of one; the grey tells them apart."""
    with av.open(str(path), "w") as video:
        streams = []
        for disposition, _ in tracks:
            stream = video.add_stream("mjpeg" if disposition & COVER else "libx264", rate=25)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if disposition & COVER else "yuv420p"
            stream.disposition = disposition
            streams.append(stream)
        for stream, (disposition, grey) in zip(streams, tracks, strict=True):
            for _ in range(1 if disposition & COVER else 5):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey, np.uint8), format="rgb24")
                video.mux(stream.encode(frame))
            video.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("tracks", "grey", "says"),
    [
        ([(DEFAULT, 200)], 200, None),
        ([(DEFAULT, 200), (NONE, 60)], 200, "track 1 is used"),
        ([(NONE, 60), (DEFAULT, 200)], 200, "track 2 is used"),
        ([(NONE, 60), (NONE, 120), (DEFAULT, 200)], 200, "it has 3 tracks of pictures; track 3 is used"),
        ([(DEFAULT, 200), (DEFAULT, 60)], 200, "track 1 is used"),
        ([(COVER, 20), (NONE, 200)], 200, None),
        ([(COVER, 20), (DEFAULT, 200), (NONE, 60)], 200, "it has 2 tracks of pictures; track 1 is used"),
        ([(NONE, 200), (COVER, 20)], 200, None),
    ],
)
def test_the_track_that_players_show_is_read(
    tmp_path: Path, tracks: list[tuple[Disposition, int]], grey: int, says: str | None
) -> None:
    covered = any(disposition & COVER for disposition, _ in tracks)
    path = write(tmp_path / ("a.mp4" if covered else "a.mkv"), tracks)
    pictures = list(frames_of(path))
    assert len(pictures) == 5 and frame_estimate(path) == 5
    assert abs(float(pictures[0].mean()) - grey) < 6
    findings = open_input(path).findings()
    assert len(findings) == (says is not None) and all(says in finding for finding in findings if says)


def test_a_sound_file_with_a_cover_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is one picture"):
        open_input(write(tmp_path / "a.mp4", [(COVER, 20)]))
