"""What a browser pastes is what the server would have sent. Runs the page's own module in Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_composite_splice import picture

from checkout import ROOT
from lipsync_composite.segments import Grid, Rect, paste_patch, scan_of
from lipsync_composite.splice import encode

MODULE = ROOT / "client" / "js" / "splice.js"
PASTE = f"""
import {{ splice }} from {json.dumps(MODULE.as_uri())};
import {{ readFileSync, writeFileSync }} from "node:fs";
for (const [name, ...box] of JSON.parse(process.argv[1])) {{
  const read = (kind) => new Uint8Array(readFileSync(`${{name}}.${{kind}}`));
  try {{
    writeFileSync(`${{name}}.pasted`, splice(read("frame"), read("scan"), box));
  }} catch (error) {{
    writeFileSync(`${{name}}.pasted`, String(error));
  }}
}}
"""
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no Node (Debian: apt-get install nodejs)")


def pasted(folder: Path, cases: list[tuple[bytes, bytes, tuple[int, ...]]]) -> list[bytes]:
    """What the module makes of frames, patches' scans and boxes; the words of an error where it takes them not."""
    listed = []
    for number, (frame, scan, box) in enumerate(cases):
        (folder / f"{number}.frame").write_bytes(frame)
        (folder / f"{number}.scan").write_bytes(scan)
        listed.append([str(folder / str(number)), *map(int, box)])
    command = [NODE, "--input-type=module", "-e", PASTE, json.dumps(listed)]
    subprocess.run(command, check=True, timeout=60)
    return [(folder / f"{number}.pasted").read_bytes() for number in range(len(cases))]


def test_the_browser_pastes_the_very_bytes(tmp_path: Path) -> None:
    cases, expected = [], []
    for width, height in [(1280, 720), (1279, 721), (641, 359), (48, 48), (333, 1000)]:
        grid = Grid.for_frame(width, height)
        for quality in (50, 75, 98):
            frame = encode(picture(width, height), quality, grid.interval).tobytes()
            for x, y in ((0, 0), (width // 3, height // 3), (width - 40, height - 40)):
                box = grid.cover(Rect(x, y, 40, 40))
                mouth = np.ascontiguousarray(box.of(picture(width, height, seed=7)))
                patch = encode(mouth, quality, grid.interval).tobytes()
                cases.append((frame, scan_of(patch), box))
                expected.append(paste_patch(frame, patch, box))
    assert pasted(tmp_path, cases) == expected


def test_the_browser_refuses_what_does_not_fit(tmp_path: Path) -> None:
    frame = encode(picture(256, 64), 75, 8).tobytes()
    scan = scan_of(encode(picture(128, 32), 75, 8).tobytes())
    cases = [
        (frame, scan, (64, 0, 128, 32)),
        (frame, scan, (128, 48, 128, 32)),
        (frame, scan, (128, 0, 128, 48)),
        (frame, scan[:-200], (128, 0, 128, 32)),
        (b"no picture", scan, (0, 0, 128, 32)),
        (b"", scan, (0, 0, 128, 32)),
    ]
    for answer in pasted(tmp_path, cases):
        assert answer.startswith(b"RangeError")
