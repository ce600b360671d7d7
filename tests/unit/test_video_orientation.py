"""Videos whose display matrix turns or mirrors the picture, as phones, front cameras and editors write it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from lipsync_studio.prepare.video import frames_of

Shown = Callable[[np.ndarray], np.ndarray]

ORIENTATIONS: dict[str, tuple[tuple[float, float, float, float], Shown]] = {
    "as stored": ((1, 0, 0, 1), lambda p: p),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "mirrored top to bottom": ((1, 0, 0, -1), np.flipud),
    "a phone held upright": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "a phone held upright, head down": ((0, -1, 1, 0), np.rot90),
    "its front camera, mirrored": ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
    "the same, head down": ((0, -1, -1, 0), lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
    "turned and enlarged": ((0, 2, -2, 0), lambda p: np.rot90(p, -1)),
    "turned by 80 degrees": ((0.17, 0.98, -0.98, 0.17), lambda p: np.rot90(p, -1)),
}


def corners(height: int = 48, width: int = 64) -> np.ndarray:
    """A picture that differs from each of its seven other orientations."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = 200
    picture[: height // 2, width // 2 :] = 130
    picture[height // 2 :, : width // 2] = 70
    return picture


def write(path: Path, matrix: tuple[float, float, float, float]) -> Path:
    """A video with that display matrix in the header of its track."""
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            video.mux(stream.encode(av.VideoFrame.from_ndarray(corners(), format="bgr24")))
        video.mux(stream.encode())
    data = bytearray(path.read_bytes())
    a, b, c, d = (round(value * 65536) for value in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_a_video_is_read_as_players_show_it(tmp_path: Path, name: str, suffix: str) -> None:
    matrix, shown = ORIENTATIONS[name]
    picture = next(frames_of(write(tmp_path / f"a.{suffix}", matrix)))
    expected = shown(corners())
    assert picture.shape == expected.shape and picture.flags.c_contiguous
    assert np.abs(picture.astype(int) - expected).mean() < 3
