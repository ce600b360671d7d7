"""A further avatar that costs little to pack: the demo with a few frames of its footage."""

from __future__ import annotations

import shutil
from pathlib import Path

import av

from lipsync_server import home
from lipsync_server.repository.source import AvatarSource

FOOTAGE = 10  # frames


def write_small_source(folder: Path, avatar: str, **changes: object) -> Path:
    """The demo with the first frames of its footage only, under another id."""
    demo = AvatarSource.read(home.AVATARS / "demo")
    folder.mkdir(parents=True)
    shutil.copy2(demo.folder / demo.unet, folder / "unet.onnx")
    rows = (demo.folder / demo.boxes).read_text().splitlines()[: FOOTAGE + 1]
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")
    with av.open(str(folder / "footage.mp4"), "w") as video:
        for _, frame in zip(range(FOOTAGE), demo.frames(), strict=False):
            if not video.streams:
                stream = video.add_stream("libx264", rate=25, options={"qp": "0", "preset": "ultrafast"})
                stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "yuv420p"
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        video.mux(stream.encode())
    stated = {"id": avatar, "name": avatar, "licence": "as the demo", "provenance": "the demo", "loop": "pingpong"}
    files = {"footage": "footage.mp4", "boxes": "boxes.csv", "unet": "unet.onnx"}
    text = "".join(f"{key}: {value}\n" for key, value in {**stated, **files, **changes}.items())
    (folder / "avatar.yaml").write_text(text)
    return folder
