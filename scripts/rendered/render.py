"""Renders the pictures that the demo avatar is composed of: one portrait, eyelids, and a few hundred mouths.

    python scripts/rendered/render.py CORPUS OUT [--mouths 300]

CORPUS comes from `lipsync_studio.corpus.speech_data`. After a stop, run it again: existing pictures are kept. It needs
Python 3.11 with bpy and anny, see `scene.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.progress import track

from framing import EYES_REGION, HEIGHT, LIDS, MOUTH_REGION, WIDTH, Region
from mouth_states import as_dict, choose
from scene import BlenderScene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mouths", type=int, default=260)
    parser.add_argument("--samples", type=int, default=16, help="of the portrait; half of it for the mouths")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    scene = BlenderScene()
    if not (out / "mouths.npy").exists():
        np.save(out / "depth.npy", scene.depths())
        np.save(out / "mouths.npy", choose(options.corpus, scene.head, options.mouths))

    def picture(name: str, samples: int, region: Region = (0, 0, WIDTH, HEIGHT)) -> None:
        if not (out / f"{name}.png").exists():
            scene.render(str(out / "partial.png"), samples, region)
            (out / "partial.png").replace(out / f"{name}.png")

    picture("portrait", options.samples)
    # Hair does not move with mouth or lids, and it is slow to render. The pictures below have none; only their changes
    # are used.
    scene.show_hair(False)
    for number, blink in enumerate(LIDS):
        scene.pose({}, blink)
        picture(f"lids_{number}", options.samples, EYES_REGION)
    for number, mouth in enumerate(track(np.load(out / "mouths.npy"), description="mouths")):
        scene.pose(as_dict(mouth), 0.0)
        picture(f"mouth_{number:03d}", max(1, options.samples // 2), MOUTH_REGION)


if __name__ == "__main__":
    main()
