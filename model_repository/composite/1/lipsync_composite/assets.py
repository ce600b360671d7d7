"""Writes the assets of a packed avatar: its footage, ready for the paste.

The folder `avatar/<key>/` holds
- `avatar.json`: the avatar's facts, and the size of every file;
- `footage.bin`: the footage as JPEGs with restart markers, one after the other;
- `pixels.bin`: for each frame the raw BGR pixels of its patch, the segment-aligned rectangle that a mouth can change;
- `index.npy`: one record (INDEX) for each frame;
- `cuts.npy`: offsets of the patches' rows in the JPEGs, shape = (rows of all frames, 2).
The two `.bin` files stay on disk: of a frame, its JPEG and its pixels are read when it is asked for. So opening costs
nothing, and the memory is the system's file cache, which processes share.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipsync_composite.geometry import INNER
from lipsync_composite.loop import LOOPS
from lipsync_composite.paste import BLENDS, changed_rect
from lipsync_composite.segments import Grid, Rect, row_cuts, segment_bounds
from lipsync_composite.splice import encode

FORMAT = 2
SMALLEST = 32  # pixels: smallest side of a box and of a mask; a smaller face is not visible
INDEX = np.dtype(
    [
        ("jpeg", "<i8"),  # offset in footage.bin
        ("jpeg_size", "<i8"),
        ("pixels", "<i8"),  # offset in pixels.bin
        ("cuts", "<i8"),  # first row in cuts.npy
        ("box", "<i4", 3),  # x, y, size in the frame
        ("patch", "<i4", 4),  # x, y, width, height in the frame
        ("jpeg_crc", "<u4"),  # CRC-32
        ("pixels_crc", "<u4"),
    ]
)

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Facts:
    """The content of `avatar.json`."""

    id: str
    width: int  # of the frame, in pixels
    height: int
    frames: int  # of footage
    loop: str
    blend: str
    mask: list[int]  # x, y, width, height in the 320 crop
    quality: int
    restart_interval: int  # MCUs
    box_sizes: list[int]  # smallest and largest, in pixels
    bytes: dict[str, int]  # sizes of the files read frame by frame
    crc32: dict[str, int]  # checksums of the files read whole
    format: int = FORMAT


def key_name(key: int) -> str:
    """The folder name of an avatar key (INT64): its 64 bits as 16 hex digits."""
    return f"{key & 0xFFFF_FFFF_FFFF_FFFF:016x}"


def write_assets(
    folder: Path,
    frames: Iterable[Picture],
    boxes: Sequence[Sequence[int]],
    *,
    avatar_id: str,
    loop: str,
    blend: str,
    mask: Sequence[int],
    quality: int,
) -> None:
    """Pack an avatar's footage. The folder appears complete or not at all. The same input gives the same bytes.

    Args:
        folder: the folder to write; replaced if it exists.
        frames: the footage, BGR, uint8, shape = (height, width, 3), all of one size; read one at a time.
        boxes: for each frame the square crop box x, y, size in its pixels, inside the frame.
        avatar_id: the avatar's name.
        loop: `forward` or `pingpong`.
        blend: `soft` or `reference`.
        mask: x, y, width, height of the rectangle that is hidden from the network, in the 320 crop.
        quality: JPEG quality, 1 to 100.

    Raises:
        ValueError: an argument, a frame or a box is not valid.
    """
    folder = Path(folder)
    check_settings(loop, blend, mask, quality)
    if not len(boxes):
        raise ValueError("boxes is empty: an avatar needs at least one frame")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        draft.chmod(0o755)  # mkdtemp makes it private; the server may run as another user
        grid, index = _write_frames(draft, frames, boxes, blend, Rect(*map(int, mask)), int(quality))
        sizes = index["box"][:, 2]
        facts = Facts(
            id=avatar_id,
            width=grid.width,
            height=grid.height,
            frames=len(index),
            loop=loop,
            blend=blend,
            mask=[int(v) for v in mask],
            quality=int(quality),
            restart_interval=grid.interval,
            box_sizes=[int(sizes.min()), int(sizes.max())],
            bytes={name: (draft / name).stat().st_size for name in ("footage.bin", "pixels.bin")},
            crc32={name: zlib.crc32((draft / name).read_bytes()) for name in ("index.npy", "cuts.npy")},
        )
        (draft / "avatar.json").write_text(json.dumps(asdict(facts), indent=2) + "\n", encoding="utf-8")
        _put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_settings(loop: str, blend: str, mask: Sequence[int], quality: int) -> None:
    """Check what `write_assets` is told beside the footage. Raises ValueError."""
    if loop not in LOOPS:
        raise ValueError(f"loop is {loop!r}; allowed: {', '.join(LOOPS)}")
    if blend not in BLENDS:
        raise ValueError(f"blend is {blend!r}; allowed: {', '.join(BLENDS)}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; allowed: 1 to 100")
    x, y, width, height = mask if len(mask) == 4 else (-1, -1, 0, 0)
    if min(x, y) < 0 or min(width, height) < SMALLEST or max(x + width, y + height) > INNER:
        raise ValueError(
            f"mask is {list(mask)}; allowed: x, y, width, height inside {INNER} x {INNER}, sides of at least {SMALLEST}"
        )


def _write_frames(
    draft: Path, frames: Iterable[Picture], boxes: Sequence[Sequence[int]], blend: str, mask: Rect, quality: int
) -> tuple[Grid, NDArray[Any]]:
    """Write the four data files. Returns the frames' grid and the index."""
    index = np.zeros(len(boxes), INDEX)
    cuts: list[list[int]] = []
    count, grid = 0, Grid(0, 0, 1)
    with (draft / "footage.bin").open("wb") as footage, (draft / "pixels.bin").open("wb") as pixels:
        for count, frame in enumerate(frames, 1):
            if count == 1 and frame.ndim == 3:
                grid = Grid.for_frame(frame.shape[1], frame.shape[0])
            if count > len(boxes):
                break
            box = _checked_box(count - 1, frame, grid, boxes[count - 1])
            patch = grid.cover(changed_rect(blend, mask, box))
            jpeg = encode(frame, quality, grid.interval)
            encoded, pasted_on = jpeg.tobytes(), patch.of(frame).tobytes()
            sums = zlib.crc32(encoded), zlib.crc32(pasted_on)
            index[count - 1] = (footage.tell(), len(jpeg), pixels.tell(), len(cuts), box[:3], patch, *sums)
            cuts += row_cuts(grid, patch, segment_bounds(jpeg, grid.total)).tolist()
            footage.write(encoded)
            pixels.write(pasted_on)
    if count != len(boxes):
        found = "more" if count > len(boxes) else count
        raise ValueError(f"there are {len(boxes)} boxes but {found} frames; every frame needs its box")
    np.save(draft / "index.npy", index)
    np.save(draft / "cuts.npy", np.array(cuts, "<i8"))
    return grid, index


def _checked_box(number: int, frame: Picture, grid: Grid, box: Sequence[int]) -> Rect:
    if frame.dtype != np.uint8 or frame.shape != (grid.height, grid.width, 3):
        raise ValueError(
            f"frame {number} is {frame.dtype} of shape {frame.shape}; all frames must be uint8 "
            "(height, width, 3) and as large as the first"
        )
    x, y, size = map(int, box)
    if size < SMALLEST or x < 0 or y < 0 or x + size > grid.width or y + size > grid.height:
        raise ValueError(
            f"frame {number}: box x={x} y={y} size={size} must lie inside the frame of {grid.width} x {grid.height} "
            f"and be at least {SMALLEST} wide"
        )
    return Rect(x, y, size, size)


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename the draft. An older folder is moved away first, because a folder that is not empty cannot be replaced."""
    if not folder.exists():
        draft.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    folder.rename(old / "old")
    draft.rename(folder)
    shutil.rmtree(old)
