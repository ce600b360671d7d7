"""Spliced JPEGs are the whole frame's JPEGs, byte for byte."""

from __future__ import annotations

import io
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from lipsync_composite.assets import write_assets
from lipsync_composite.avatar import PackedAvatar
from lipsync_composite.mark import XMP
from lipsync_composite.segments import Grid, Rect, paste_patch, segment_bounds
from lipsync_composite.splice import encode

MASK = [5, 5, 310, 305]


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A soft, colourful picture with a little grain, BGR."""
    rng = np.random.default_rng(seed)
    soft = cv2.resize(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.add(soft, rng.integers(0, 6, soft.shape, dtype=np.uint8))


def pillow_jpeg(frame: np.ndarray, quality: int, interval: int, xmp: bytes | None = XMP) -> bytes:
    """The whole frame, with the mark of synthetic pictures as Pillow writes XMP."""
    file = io.BytesIO()
    rgb = Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
    rgb.save(
        file, "JPEG", quality=quality, subsampling="4:2:0", optimize=False, restart_marker_blocks=interval, xmp=xmp
    )
    return file.getvalue()


def border_boxes(width: int, height: int, size: int) -> list[tuple[int, int, int]]:
    """Boxes in each corner, at the middle of each border, and in the middle."""
    return [
        (x, y, size) for x in (0, (width - size) // 2, width - size) for y in (0, (height - size) // 2, height - size)
    ]


def check_avatar(folder: Path, frame: np.ndarray, boxes: list[tuple[int, int, int]], blend: str, quality: int) -> None:
    """Packs `frame` once for every box and compares each spliced JPEG to Pillow's of the composited frame."""
    write_assets(
        folder, (frame for _ in boxes), boxes, avatar_id="a", loop="forward", blend=blend, mask=MASK, quality=quality
    )
    avatar = PackedAvatar.open(folder)
    mouth = picture(320, 320, seed=5)
    interval = Grid.for_frame(frame.shape[1], frame.shape[0]).interval
    for position, box in enumerate(boxes):
        whole = frame.copy()
        patch, pixels = avatar.composited(position, mouth)
        patch.of(whole)[:] = pixels
        assert not np.array_equal(whole, frame)
        jpeg = avatar.render(position, mouth)
        assert jpeg == pillow_jpeg(whole, quality, interval), f"box {box}"
        footage = avatar.footage_jpeg(position)
        assert footage == pillow_jpeg(frame, quality, interval)
        changed, part = avatar.render_patch(position, mouth)
        assert changed == patch
        assert part == pillow_jpeg(pixels, quality, interval, xmp=None)  # the footage that it is pasted on is marked
        assert paste_patch(footage, part, patch) == jpeg, f"box {box}"


@pytest.mark.parametrize("blend", ["soft", "reference"])
@pytest.mark.parametrize(
    ("width", "height"),
    [(1280, 720), (1279, 721), (641, 359), (43 * 16, 400), (48, 48), (333, 1000)],
)
def test_spliced_equals_whole_frame_at_every_border(tmp_path: Path, width: int, height: int, blend: str) -> None:
    boxes = border_boxes(width, height, min(width, height, 301))
    check_avatar(tmp_path / "a", picture(width, height), boxes, blend, 75)


def test_spliced_equals_whole_frame_at_4k(tmp_path: Path) -> None:
    check_avatar(tmp_path / "a", picture(3840, 2160), [(3840 - 500, 2160 - 500, 500), (1700, 900, 333)], "soft", 75)


@pytest.mark.parametrize("blend", ["soft", "reference"])
@pytest.mark.parametrize("quality", [50, 75, 95])
def test_spliced_equals_whole_frame_at_any_quality_and_box(tmp_path: Path, quality: int, blend: str) -> None:
    rng = np.random.default_rng(quality)
    boxes = []
    for _ in range(40):
        size = int(rng.integers(32, 341))
        boxes.append((int(rng.integers(0, 901 - size)), int(rng.integers(0, 341 - size)), size))
    check_avatar(tmp_path / "a", picture(900, 340), boxes, blend, quality)


def test_opencv_and_pillow_give_the_same_bytes() -> None:
    """OpenCV encodes; should its JPEG library ever part from Pillow's, this tells."""
    frame = picture(200, 100)
    for quality in range(1, 101):
        assert encode(frame, quality, 3).tobytes() == pillow_jpeg(frame, quality, 3, xmp=None)


def test_segments_are_found_at_any_quality() -> None:
    """At low qualities the quantisation tables hold 0xFF, and at high ones the data does."""
    frame = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    grid = Grid.for_frame(96, 64)
    for quality in range(1, 101):
        data = encode(frame, quality, grid.interval)
        bounds = segment_bounds(data, grid.total)
        assert bounds[-1] == len(data)
        assert [data[end - 1] for end in bounds[1:-1]] == [0xD0 + k % 8 for k in range(grid.total - 1)]


@pytest.mark.parametrize(
    ("width", "interval"), [(1280, 8), (1920, 8), (720, 5), (640, 8), (641, 1), (43 * 16, 1), (16, 1), (1, 1), (336, 7)]
)
def test_segments_never_cross_rows(width: int, interval: int) -> None:
    grid = Grid.for_frame(width, 100)
    assert grid.interval == interval
    assert grid.per_row * interval == -(-width // 16)


def test_cover_is_the_smallest_aligned_rectangle_in_the_frame() -> None:
    grid = Grid.for_frame(1280, 700)
    assert grid.cover(Rect(128, 16, 128, 16)) == Rect(128, 16, 128, 16)
    assert grid.cover(Rect(127, 15, 130, 18)) == Rect(0, 0, 384, 48)
    assert grid.cover(Rect(1200, 690, 80, 10)) == Rect(1152, 688, 128, 12)


def test_pillow_and_pyav_decode_spliced_frames(tmp_path: Path) -> None:
    frame = picture(642, 358)
    write_assets(
        tmp_path / "a", [frame], [(333, 49, 309)], avatar_id="a", loop="forward", blend="soft", mask=MASK, quality=90
    )
    avatar = PackedAvatar.open(tmp_path / "a")
    mouth = picture(320, 320, seed=5)
    jpeg = avatar.render(0, mouth)
    patch, pixels = avatar.composited(0, mouth)
    patch.of(frame)[:] = pixels
    (decoded,) = av.CodecContext.create("mjpeg", "r").decode(av.Packet(jpeg))
    grey_by_av = decoded.to_ndarray()[: frame.shape[0]].astype(int)  # planar 4:2:0 begins with the luma
    by_pillow = np.asarray(Image.open(io.BytesIO(jpeg)))[..., ::-1]
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY).astype(int)
    assert np.abs(grey_by_av[:, : frame.shape[1]] - grey).mean() < 2
    assert np.abs(cv2.cvtColor(by_pillow, cv2.COLOR_BGR2GRAY) - grey).mean() < 2


@pytest.mark.parametrize(
    ("frame", "part", "box"),
    [
        ((128, 64), (64, 32), (0, 0, 64, 48)),  # another size than the box's
        ((128, 64), (64, 32), (8, 0, 64, 32)),  # not on segments
        ((128, 64), (64, 32), (64, 48, 64, 32)),  # over the border
        ((128, 64), (64, 32), (-128, 0, 64, 32)),
        ((112, 64), (56, 32), (0, 0, 56, 32)),  # of a frame with another restart interval
    ],
)
def test_a_patch_of_another_frame_is_refused(frame, part, box) -> None:
    whole = encode(picture(*frame), 75, Grid.for_frame(*frame).interval).tobytes()
    patch = encode(picture(*part), 75, 4 if frame[0] == 128 else 2).tobytes()
    with pytest.raises(ValueError, match=r"does not fit|restart"):
        paste_patch(whole, patch, box)


@pytest.mark.parametrize("broken", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"no picture", b"\xff\xd8\xff\xc0\x00"])
def test_pasting_what_is_no_jpeg_is_refused(broken: bytes) -> None:
    whole = encode(picture(128, 64), 75, 8).tobytes()
    for pair in ((whole, broken), (broken, whole)):
        with pytest.raises(ValueError, match="JPEG"):
            paste_patch(*pair, (0, 0, 128, 64))
