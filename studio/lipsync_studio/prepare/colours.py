"""Colours of decoded video frames, as a usual screen shows them: BT.709, 8 bits, full range."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av.filter import Graph

from lipsync_server.repository.source import Picture

# Numbers of ITU-T H.273, which FFmpeg uses too.
UNSPECIFIED, BT709, BT2020 = 2, 1, 9
PQ, HLG = 16, 18
TRANSFERS = {PQ: "PQ", HLG: "HLG"}  # of high dynamic range
WIDE = {BT2020: "BT.2020", 11: "DCI-P3", 12: "Display P3"}  # primaries that a usual screen does not have
RGB = 0
MATRICES = {RGB, BT709, UNSPECIFIED, 4, 5, 6, 7, BT2020, 10}  # that FFmpeg converts
HD_LINES, HD_COLUMNS = 720, 1280  # from here on, players take video without tags as BT.709; below, as BT.601


def picture_of(frame: Any) -> Picture:
    """A decoded frame with the colours that players show, BGR UINT8 [height,width,3].

    High dynamic range and wide colours are converted so that white paper stays white; what is brighter is clipped.
    """
    if _is_wide(frame):
        convert = _conversion(
            frame.width, frame.height, frame.format.name, *_tags(frame), color_range=int(frame.color_range)
        )
        if convert:
            convert.push(frame)
            converted: Any = convert.pull()
            return np.asarray(converted.to_ndarray(format="bgr24"), np.uint8)
    stated: dict[str, Any] = {}
    if frame.colorspace == UNSPECIFIED and (frame.height >= HD_LINES or frame.width >= HD_COLUMNS):
        stated["src_colorspace"] = BT709
    if frame.color_range:
        stated["src_color_range"] = int(frame.color_range)
    return np.asarray(frame.to_ndarray(format="bgr24", **stated), np.uint8)


def colour_finding(frame: Any) -> str | None:
    """What is unusual about a frame's colours, as the end of a sentence that begins with the file's name."""
    if frame.colorspace not in MATRICES:
        return (
            f"its colours (matrix {frame.colorspace} of H.273, as in Dolby Vision profile 5) cannot be converted. "
            "Film with HDR switched off"
        )
    if not _is_wide(frame):
        return None
    kind = TRANSFERS.get(frame.color_trc) or WIDE[frame.color_primaries]
    primaries, transfer, matrix = _tags(frame)
    if not _conversion(
        frame.width, frame.height, frame.format.name, primaries, transfer, matrix, color_range=int(frame.color_range)
    ):
        return f"its colours are {kind}, which this PyAV cannot convert: pip install -U av, and prepare it again"
    if frame.color_trc in TRANSFERS:
        return (
            f"it was filmed in HDR ({kind}) and is converted to the usual colours. Check in preview.png that the skin "
            "is not too bright; filming with HDR switched off is better"
        )
    return None


def _is_wide(frame: Any) -> bool:
    return frame.color_trc in TRANSFERS or frame.color_primaries in WIDE


def _tags(frame: Any) -> tuple[int, int, int]:
    """Primaries, transfer and matrix of a wide frame, also where the file states only some of them."""
    primaries = BT2020 if frame.color_primaries == UNSPECIFIED else frame.color_primaries
    transfer = BT709 if frame.color_trc == UNSPECIFIED else frame.color_trc
    matrix = frame.colorspace
    if matrix == UNSPECIFIED:
        matrix = BT2020 if primaries == BT2020 else BT709
    return int(primaries), int(transfer), int(matrix)


@lru_cache(maxsize=4)
def _conversion(
    width: int, height: int, pixels: str, primaries: int, transfer: int, matrix: int, color_range: int
) -> Graph | None:
    """A filter graph that takes such frames and gives BGR of BT.709. None if this FFmpeg has no such filter."""
    graph = Graph()
    source = graph.add("buffer", f"video_size={width}x{height}:pix_fmt={pixels}:time_base=1/25")
    # Relative colorimetric: reference white becomes white. FFmpeg's perceptual intent would make faces darker.
    stated = f"in_primaries={primaries}:in_transfer={transfer}:in_color_matrix={matrix}:in_range={color_range}"
    wanted = "out_primaries=bt709:out_transfer=bt709:out_range=pc:intent=relative_colorimetric"
    try:
        steps = [source, graph.add("scale", f"{stated}:{wanted}"), graph.add("format", "pix_fmts=gbrp")]
        steps.append(graph.add("buffersink"))
        for before, after in pairwise(steps):
            before.link_to(after)
        graph.configure()
    except (av.FFmpegError, ValueError):
        return None
    return graph
