"""The machine-readable mark of synthetic pictures: XMP metadata with IPTC's digital source type.

The same packet goes into every JPEG and into video files, so it is made once. Readers need no code of this project.
"""

from __future__ import annotations

import os

__all__ = ["SEGMENT", "SOURCE_TYPE", "XMP", "is_on"]

# IPTC NewsCodes, digitalsourcetype: a network painted a part of recorded pictures ("edited using generative AI").
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
).encode()
_CONTENT = b"http://ns.adobe.com/xap/1.0/\0" + XMP
SEGMENT = b"\xff\xe1" + (len(_CONTENT) + 2).to_bytes(2, "big") + _CONTENT  # APP1 of a JPEG (XMP specification, part 3)
VARIABLE = "LIPSYNC_MARK_SYNTHETIC"


def is_on() -> bool:
    """Whether pictures are marked: always, unless the environment variable LIPSYNC_MARK_SYNTHETIC is `false`."""
    return os.environ.get(VARIABLE, "").strip().lower() != "false"
