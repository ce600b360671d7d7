"""Hair, eyebrows and lashes as strands grown on the head: polylines that Cycles renders as curves."""

from __future__ import annotations

import numpy as np
from mathutils import Vector
from mathutils.bvhtree import BVHTree
from numpy.typing import NDArray

Strands = NDArray[np.float64]  # [S,K,3]: S strands of K points, root first
UP = np.array([0.0, 0.0, 1.0])

CENTRE = np.array([0.0, -0.35, 6.75])  # of the skull
# Azimuth from the front (degrees) -> height of the hairline, from the forehead over the temples and ears to the nape.
HAIRLINE = (
    [0, 25, 40, 55, 68, 78, 88, 100, 115, 140, 180],
    [7.3, 7.28, 7.2, 7.02, 6.86, 6.55, 6.5, 6.5, 6.2, 5.85, 5.75],
)
PART = 0.26  # the parting's x
STEP = 0.075


def surface(points: NDArray[np.float64], faces: list[list[int]]) -> BVHTree:
    """A tree for the nearest point on a mesh."""
    return BVHTree.FromPolygons([Vector(p) for p in points], faces)


def scatter(points: NDArray[np.float64], faces: list[list[int]], count: int, rng: np.random.Generator):
    """`count` random points, evenly spread over the faces, [count,3]."""
    triangles = np.array([[f[0], f[i], f[i + 1]] for f in faces for i in range(1, len(f) - 1)])
    a, b, c = points[triangles].transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = rng.choice(len(area), count, p=area / area.sum())
    u, v = rng.random((2, count, 1))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    return a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]


def on_scalp(points: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether points are above the hairline, which has an irregular edge. BOOL [n]."""
    away = points - CENTRE
    azimuth = np.degrees(np.arctan2(np.abs(away[:, 0]), -away[:, 1]))
    return points[:, 2] > np.interp(azimuth, *HAIRLINE) + rng.normal(0, 0.035, len(points))


def grow_guides(tree: BVHTree, roots: NDArray[np.float64], rng: np.random.Generator, steps: int = 48) -> Strands:
    """Locks combed from a side parting over the head and down to the shoulders; each keeps its distance to the skin."""
    count = len(roots)
    side = np.where(roots[:, 0] > PART + rng.normal(0, 0.015, count), 1.0, -1.0)
    lift = rng.uniform(0.03, 0.15, count) * np.clip((7.9 - roots[:, 2]) * 0.2 + 0.75, 0.6, 1.0)
    lift *= np.clip(np.abs(roots[:, 0] - PART) * 2.5 + 0.45, 0.45, 1)
    back = np.clip((-roots[:, 1] - 0.35) * 1.5, 0, 1.2) * rng.uniform(0.8, 1.2, count)
    bottom = rng.normal(5.2, 0.07, count) - 0.1 * np.clip(roots[:, 2] - 6.5, 0, 1)
    phase = rng.uniform(0, 2 * np.pi, count)
    points, path = roots.copy(), [roots.copy()]
    heading = np.zeros((count, 3))
    for step in range(steps - 1):
        age = step / steps
        pull = np.zeros((count, 3))
        high = np.clip((points[:, 2] - 6.9) / 0.6, 0, 1)
        pull[:, 0] = side * (1.5 * high)
        pull[:, 1] = back * (0.9 * high + 0.25 * np.clip(points[:, 2] - 6.2, 0, 1))
        pull[:, 2] = -1.0 + 0.4 * high
        wish = 0.80 - 0.24 * np.clip(6.5 - points[:, 2], 0, 1)  # narrower towards the tips
        excess = np.clip(np.abs(points[:, 0]) - wish, 0, 0.4) * (points[:, 2] < 6.6)
        pull[:, 0] -= np.sign(points[:, 0]) * excess * 3.0
        pull[:, 0] += 0.10 * np.sin(phase + step * 0.33)
        heading = 0.55 * heading + 0.45 * pull / np.linalg.norm(pull, axis=1, keepdims=True)
        move = STEP * heading / np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-6)
        points = points + move
        away = lift * min(1.0, 0.35 + 4 * age)
        for i in range(count):
            place, normal, _, distance = tree.find_nearest(Vector(points[i]))
            outside = (Vector(points[i]) - place).dot(normal)
            height = distance if outside > 0 else -distance
            if height < away[i]:
                points[i] += np.array(normal) * (away[i] - height)
            elif points[i, 2] > 6.35 and height > away[i] + 0.03:  # pressed onto the head by the comb
                points[i] -= np.array(normal) * (height - away[i] - 0.03) * (0.5 if points[i, 2] > 6.7 else 0.25)
        _clear_face(points)
        path.append(points.copy())
    return _cut(np.stack(path, axis=1), bottom)


def _cut(strands: Strands, bottom: NDArray[np.float64]) -> Strands:
    """Cut each strand at its own height and divide it evenly again."""
    count = strands.shape[1]
    for strand, lowest in zip(strands, bottom, strict=True):
        below = np.flatnonzero(strand[:, 2] < lowest)
        end = below[0] if len(below) else count - 1
        at = np.linspace(0, end, count)
        strand[:] = np.stack([np.interp(at, np.arange(count), strand[:, k]) for k in range(3)], axis=1)
    return strands


def _clear_face(points: NDArray[np.float64]) -> None:
    """Move hair that hangs beside the face out of the face, in place."""
    low = np.clip((7.32 - points[:, 2]) / 0.32, 0, 1)
    room = (0.67 - 0.05 * np.clip(6.3 - points[:, 2], 0, 1)) * low
    front = points[:, 1] < -0.35
    inside = front & (np.abs(points[:, 0]) < room)
    points[inside, 0] += np.sign(points[inside, 0]) * (room - np.abs(points[:, 0]))[inside] * 0.6


def thicken(guides: Strands, each: int, spread: float, rng: np.random.Generator) -> Strands:
    """Make `each` hairs around every guide, closer together towards the tip; a few stray."""
    count, points, _ = guides.shape
    offset = rng.normal(0, spread, (count, each, 1, 3))
    t = np.linspace(0, 1, points)[None, None, :, None]
    clump = rng.uniform(0.0, 0.5, (count, 1, 1, 1))
    hairs = guides[:, None] + offset * (1 - clump * np.sin(np.minimum(t * 1.6, 1) * np.pi / 2))
    stray = (rng.random((count, each, 1, 1)) < 0.06) * rng.normal(0, 0.09, (count, each, 1, 3))
    wave = np.sin(t * rng.uniform(4, 9, (count, each, 1, 1)) + rng.uniform(0, 6.28, (count, each, 1, 1)))
    hairs = hairs + stray * t**2 + 0.012 * wave * t * rng.normal(0, 1, (count, each, 1, 3))
    return hairs.reshape(-1, points, 3)


def grow_brow(tree: BVHTree, eye: NDArray[np.float64], side: int, rng: np.random.Generator) -> Strands:
    """An eyebrow above an eye: short fine hairs along an arch, upwards at the nose, outwards at the temple."""
    count = 700
    along = np.interp(np.sort(rng.random(count)), [0, 0.06, 0.94, 1], [0, 0.1, 0.91, 1])  # thinner at its ends
    arch_x = np.interp(along, [0, 1], [-0.2, 0.29])
    arch_z = np.interp(along, [0, 0.3, 0.62, 0.82, 1], [0.176, 0.216, 0.258, 0.252, 0.226])
    width = np.interp(along, [0, 0.2, 0.5, 0.8, 1], [0.016, 0.023, 0.02, 0.013, 0.004])
    across = np.clip(rng.normal(0, 0.5, count), -1.1, 1.1)
    x, z = eye[0] + side * arch_x, eye[2] + arch_z + width * across
    strands = []
    for i in range(count):
        place, normal, *_ = tree.find_nearest(Vector((x[i], eye[1] - 0.4, z[i])))
        lean = np.interp(along[i], [0, 0.2, 1], [0.5, 0.86, 1.0]) + rng.normal(0, 0.05)
        flow = np.array([side * lean, 0.0, 0.85 - 0.95 * lean - 0.25 * across[i]])
        normal = np.array(normal)
        flow -= normal * flow.dot(normal)
        flow /= np.linalg.norm(flow)
        t = np.linspace(0, 1, 4)[:, None] * rng.uniform(0.04, 0.07)
        strands.append(np.array(place) + flow * t + normal * (0.012 + 0.03 * t))
    return np.array(strands)


def grow_lashes(rim: NDArray[np.float64], count: int, length: float, rise: float, rng: np.random.Generator) -> Strands:
    """Lashes along an eyelid's rim, [R,3] from the nose outwards, that curve forward and then up by `rise` (-1..1)."""
    at = np.sort(rng.random(count))
    place = np.stack([np.interp(at, np.linspace(0, 1, len(rim)), rim[:, k]) for k in range(3)], axis=1)
    outward = np.sign(rim[-1, 0] - rim[0, 0]) * (at - 0.35)[:, None] * np.array([[0.9, 0, 0]])
    reach = length * np.interp(at, [0, 0.3, 0.8, 1], [0.5, 0.8, 1.15, 0.9]) * rng.uniform(0.75, 1.1, count)
    place = place + np.array([0, -0.004, -0.012 * np.sign(rise + 0.7)])
    t = np.linspace(0, 1, 5)[None, :, None]
    ahead = (np.array([0, -0.8, 0]) + outward)[:, None] * t
    curl = rise * UP * (0.25 * t + 0.6 * t**2)
    return place[:, None] + reach[:, None, None] * (ahead + curl)
