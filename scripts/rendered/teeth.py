"""Two rows of single teeth, in place of the mesh's own, which are bands without gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from head_mesh import Points

TEETH = {  # widths from the middle outwards (dm), height, z of the edge, y of the arch's front
    "upper": ([0.084, 0.066, 0.074, 0.07, 0.068, 0.09], 0.12, 5.95, -1.285),
    "lower": ([0.055, 0.058, 0.066, 0.068, 0.07, 0.095], 0.085, 5.945, -1.235),
}
TALL = (1, 0.9, 1.0, 0.85, 0.8, 0.75)  # parts of that height, from the middle outwards
ARCH = (0.285, 0.40)  # half width and depth of the ellipse on which they stand
RINGS, AROUND = 13, 20  # of a tooth's surface
TOOTH, GUM = 0, 1


def _rounded_block() -> Points:
    """The points of a unit block with rounded edges, ring by ring."""
    lat, lon = np.meshgrid(
        np.linspace(-np.pi / 2, np.pi / 2, RINGS), np.linspace(0, 2 * np.pi, AROUND, endpoint=False), indexing="ij"
    )

    def power(values: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
        return np.sign(values) * np.abs(values) ** exponent

    flat = power(np.cos(lat), 0.45)
    block = [flat * power(np.cos(lon), 0.6), flat * power(np.sin(lon), 0.7), power(np.sin(lat), 0.55)]
    return np.stack(block, axis=-1).reshape(-1, 3)


def _block_faces(first: int) -> list[list[int]]:
    """The faces of a block whose points begin at `first`."""
    faces = []
    for ring in range(RINGS - 1):
        for place in range(AROUND):
            beside = (place + 1) % AROUND
            low, high = first + ring * AROUND, first + (ring + 1) * AROUND
            faces.append([low + place, low + beside, high + beside, high + place])
    return faces


def row_of_teeth(row: str) -> tuple[Points, list[list[int]], list[int]]:
    """The "upper" or "lower" row with its gum: points, faces, and TOOTH or GUM of each face."""
    widths, height, edge, front = TEETH[row]
    up = 1 if row == "upper" else -1
    shape = _rounded_block()
    points: list[Points] = []
    faces: list[list[int]] = []
    kinds: list[int] = []

    def add(centre: tuple[float, float, float], turn: float, half: tuple[float, float, float], kind: int) -> None:
        x, y, z = (shape * half).T
        cos, sin = np.cos(turn), np.sin(turn)
        made = _block_faces(sum(map(len, points)))
        points.append(np.stack([x * cos - y * sin, x * sin + y * cos, z], axis=1) + centre)
        faces.extend(made)
        kinds.extend([kind] * len(made))

    for side in (1, -1):
        along = 0.0
        for number, (width, part) in enumerate(zip(widths, TALL, strict=True)):
            angle = (along + width / 2) / 0.30
            along += width * 0.99
            x, y = side * ARCH[0] * np.sin(angle), front + ARCH[1] * (1 - np.cos(angle))
            turn = side * np.arctan2(ARCH[1] * np.sin(angle), ARCH[0] * np.cos(angle))
            tall = height * part
            add((x, y, edge + up * (tall / 2 + 0.002 * number)), turn, (width * 0.51, 0.033, tall / 2), TOOTH)
            add((x, y + 0.035, edge + up * (tall + 0.015)), turn, (width * 0.62, 0.04, 0.04), GUM)
    return np.concatenate(points), faces, kinds
