"""The square around a face, as SyncTalk_2D cuts it. The crop box is resized to 328 x 328; the network sees its inside.

So a mouth goes back through the 328 picture. Stretching the 320 over the box would shift it.
"""

from __future__ import annotations

CROP = 328  # pixels: side of the resized crop box
INNER = 320  # what the network sees and returns
MARGIN = (CROP - INNER) // 2
