"""Colours of footage: untagged, tagged with other matrices and ranges, with wide colours, and HDR."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest

from lipsync_studio.prepare.avatar_folder import write_footage
from lipsync_studio.prepare.inputs import open_input
from lipsync_studio.prepare.video import frames_of

COLOURS = np.array([[235, 235, 235], [200, 150, 125], [120, 70, 60], [40, 90, 160], [10, 10, 10]])  # RGB, as seen
LIMITED, FULL = 1, 2
REFERENCE_WHITE = 203.0  # cd/m2, BT.2408
LUMA = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087
TO_P3 = np.array([[0.8225, 0.1774, 0.0], [0.0332, 0.9669, 0.0], [0.0171, 0.0724, 0.9108]])


class File(NamedTuple):
    """How a video is written: numbers of H.273, 2 where it is not stated."""

    matrix: str
    stated_matrix: int = 2
    primaries: int = 2
    transfer: int = 2
    range: int = 0
    width: int = 320
    height: int = 240
    bits: int = 8


FILES = {
    "SD without tags": File("601"),
    "HD without tags": File("709", width=1280, height=720),
    "HD held upright, without tags": File("709", width=720, height=1280),
    "576 lines without tags": File("601", width=720, height=576),
    "HD that states BT.601": File("601", 6, 6, 6, LIMITED, width=1280, height=720),
    "SD that states BT.709": File("709", 1, 1, 1, LIMITED),
    "full range": File("709", 1, 1, 1, FULL),
    "full range without a matrix, HD": File("709", range=FULL, width=1280, height=720),
    "10 bits without HDR": File("709", 1, 1, 1, LIMITED, bits=10),
    "BT.2020 without HDR": File("2020", 9, 9, 14, LIMITED, bits=10),
    "Display P3": File("709", 1, 12, 1, LIMITED),
    "HLG, as phones film": File("2020", 9, 9, 18, LIMITED, bits=10),
    "HLG that states no matrix": File("2020", 2, 2, 18, LIMITED, bits=10),
    "PQ": File("2020", 9, 9, 16, LIMITED, bits=10),
    "PQ, full range": File("2020", 9, 9, 16, FULL, bits=10),
}


def signal(file: File) -> np.ndarray[Any, Any]:
    """The colours' R'G'B' in the file's primaries and transfer, 0..1."""
    light = (COLOURS / 255) ** 2.4
    if file.primaries == 12:
        light = light @ TO_P3.T
    elif file.matrix == "2020":
        light = light @ TO_BT2020.T
    if file.transfer == 16:
        m = (light * REFERENCE_WHITE / 10_000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * m) / (1 + 18.6875 * m)) ** 78.84375
    if file.transfer == 18:
        shown = light * REFERENCE_WHITE / 1000
        luminance = shown @ [0.2627, 0.6780, 0.0593]
        scene = shown * luminance[:, None] ** (1 / 1.2 - 1)
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)
    return light ** (1 / 2.4)


def write(path: Path, file: File) -> Path:
    """A video of five stripes."""
    rgb = signal(file)
    red, blue = LUMA[file.matrix]
    luma = rgb @ [red, 1 - red - blue, blue]
    cb, cr = (rgb[:, 2] - luma) / (2 * (1 - blue)), (rgb[:, 0] - luma) / (2 * (1 - red))
    scale = 2 ** (file.bits - 8)
    if file.range == FULL:
        planes = [luma * (2**file.bits - 1)] + [c * (2**file.bits - 1) + 128 * scale for c in (cb, cr)]
    else:
        planes = [(16 + 219 * luma) * scale] + [(128 + 224 * c) * scale for c in (cb, cr)]
    pixels = "yuv420p" if file.bits == 8 else "yuv420p10le"
    frame = av.VideoFrame(file.width, file.height, pixels)
    kind: Any = np.uint8 if file.bits == 8 else np.uint16
    for number, (plane, values) in enumerate(zip(frame.planes, planes, strict=True)):
        height, width = (file.height, file.width) if number == 0 else (file.height // 2, file.width // 2)
        stored = np.zeros((height, plane.line_size // np.dtype(kind).itemsize), kind)
        stored[:, :width] = np.rint(values)[np.arange(width) * len(COLOURS) // width]
        plane.update(stored.tobytes())
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = file.width, file.height, pixels
        context = stream.codec_context
        context.colorspace, context.color_primaries = file.stated_matrix, file.primaries
        context.color_trc, context.color_range = file.transfer, file.range
        frame.colorspace, frame.color_range = file.stated_matrix, file.range
        for number in range(2):
            frame.pts = number
            video.mux(stream.encode(frame))
        video.mux(stream.encode())
    return path


def read(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """RGB in the middle of each stripe."""
    columns = (np.arange(len(COLOURS)) * 2 + 1) * picture.shape[1] // (2 * len(COLOURS))
    return picture[picture.shape[0] // 2, columns, ::-1]


@pytest.mark.parametrize("name", FILES)
def test_colours_are_read_as_they_look(tmp_path: Path, name: str) -> None:
    file = FILES[name]
    picture = next(frames_of(write(tmp_path / "a.mp4", file)))
    near = 6 if file.primaries in (9, 12) or file.transfer in (16, 18) else 3  # FFmpeg compresses saturated colours
    assert np.abs(read(picture).astype(int) - COLOURS).max() <= near, read(picture)


def test_a_file_in_hdr_is_a_finding(tmp_path: Path) -> None:
    for name, file in FILES.items():
        findings = open_input(write(tmp_path / "a.mp4", file)).findings()
        assert ["filmed in HDR" in finding for finding in findings] == [True] * (file.transfer in (16, 18)), name


def test_colours_that_cannot_be_converted_are_a_finding(tmp_path: Path) -> None:
    (finding,) = open_input(write(tmp_path / "a.mp4", File("2020", 14, 9, 1, LIMITED, bits=10))).findings()
    assert "a.mp4" in finding and "cannot be converted" in finding


def test_written_footage_states_how_its_colours_are_stored(tmp_path: Path) -> None:
    stripes = np.repeat(COLOURS[None, :, ::-1].astype(np.uint8), 256, 1).repeat(720, 0)
    write_footage(tmp_path / "footage.mp4", [stripes] * 2, exact=False)
    assert np.abs(read(next(frames_of(tmp_path / "footage.mp4"))).astype(int) - COLOURS).max() <= 4  # it is compressed
