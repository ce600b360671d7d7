"""Replaces a rectangle of a JPEG by encoding only that rectangle; `segments.py` tells how."""

from __future__ import annotations

import cv2

from lipsync_composite.segments import Bytes, Grid, Rect, join


def encode(picture: Bytes, quality: int, interval: int) -> Bytes:
    """Encodes BGR, shape = (height, width, 3), as 4:2:0 JPEG with standard Huffman tables and a restart marker every
    `interval` MCUs. OpenCV's bytes equal Pillow's at these settings, in half the time: it reads BGR as it is.
    """
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    done, data = cv2.imencode(".jpg", picture, settings)
    if not done:
        raise ValueError(f"a picture of {picture.shape[1]} x {picture.shape[0]} cannot be encoded as JPEG")
    return data


def splice(frame: memoryview, cuts: list[list[int]], grid: Grid, patch: Rect, picture: Bytes, quality: int) -> bytes:
    """The JPEG of the frame with `patch` replaced.

    Args:
        frame: JPEG of the whole frame, encoded with `quality` and `grid.interval`.
        cuts: `row_cuts` of the patch in that JPEG, as a list.
        grid: the frame's segments.
        patch: the rectangle to replace, from `grid.cover`.
        picture: its new pixels, BGR, shape = (patch.height, patch.width, 3).
        quality: JPEG quality, 1 to 100.
    """
    return join(frame, cuts, grid, patch, encode(picture, quality, grid.interval))
