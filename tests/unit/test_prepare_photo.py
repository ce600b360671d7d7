"""A photo instead of a video."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from lipsync_server.repository.source import SourceError
from lipsync_studio.prepare.inputs import open_input
from lipsync_studio.prepare.prepare import prepare_avatar


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif", "mp4"])
def test_one_photo_is_refused_and_nothing_is_left(tmp_path: Path, suffix: str) -> None:
    photo = tmp_path / f"photo.{suffix}"
    write(photo, 1)
    with pytest.raises(SourceError, match="is one picture"):
        prepare_avatar([photo], tmp_path / "avatars" / "anna", tmp_path / "work" / "anna")
    assert [path.name for path in tmp_path.iterdir()] == [photo.name]


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_moving_pictures_are_taken(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"film.{suffix}", 5)
    assert sum(1 for _ in open_input(tmp_path / f"film.{suffix}").frames()) >= 5


def write(path: Path, frames: int) -> None:
    pictures = [Image.fromarray(np.full((64, 64, 3), 40 * number, np.uint8)) for number in range(frames)]
    if path.suffix == ".mp4":
        with av.open(str(path), "w") as video:
            stream = video.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for picture in pictures:
                video.mux(stream.encode(av.VideoFrame.from_image(picture)))
            video.mux(stream.encode())
    elif frames > 1:
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    else:
        pictures[0].save(path)
