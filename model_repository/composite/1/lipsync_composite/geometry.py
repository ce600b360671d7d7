"""The crop around a face, as in SyncTalk_2D: the crop box is resized to 328 x 328, and the network sees its inside.

A mouth is pasted back by way of the 328 picture. Stretching the 320 picture over the box would shift it.
"""

from __future__ import annotations

CROP = 328  # pixels: side of the resized crop box
INNER = 320  # what the network sees and returns
MARGIN = (CROP - INNER) // 2
