"""Marks video files as synthetic: the packet of `lipsync_composite.mark`, where each container has a place for it."""

from __future__ import annotations

from pathlib import Path

from lipsync_composite.mark import SOURCE_TYPE, XMP

__all__ = ["TAGS", "XMP_BOX", "add_xmp"]

# XMP specification, part 3: the top-level box of MP4 files that holds the packet.
_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
XMP_BOX = (8 + len(_UUID) + len(XMP)).to_bytes(4, "big") + b"uuid" + _UUID + XMP
WITH_BOXES = ("mp4", "mov")  # containers made of boxes

# Tags of the container. They are all that Matroska and WebM have, for which no place of XMP is defined.
TAGS = {
    "comment": f"Synthetic video: a neural network painted the mouth ({SOURCE_TYPE})",
    "digital_source_type": SOURCE_TYPE,
}


def add_xmp(path: Path, container: str) -> None:
    """Add the packet behind a finished MP4 or MOV file, where it moves nothing. Other containers stay as they are."""
    if container in WITH_BOXES:
        with path.open("ab") as file:
            file.write(XMP_BOX)
