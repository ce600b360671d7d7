"""A crew-neck jumper: the mesh's own tights, moved outwards and cut at the neck."""

from __future__ import annotations

import bmesh
import numpy as np
from mathutils import Vector

from head_mesh import HeadMesh, Points

NECK = Vector((0.0, -0.25, 5.3))  # a point of the neckline's plane
TILT = Vector((0.0, -0.5, 1.0))  # its normal: lower at the front
THICKNESS = 0.07


def jumper(head: HeadMesh) -> tuple[Points, list[list[int]], Points]:
    """Points, faces, and the neckline as a closed line of points."""
    mesh = bmesh.new()
    faces = [f[0] for f in head.groups["helper-tights"] if head.base[f[0]][:, 2].min() > 1.5]
    ids = np.unique(np.concatenate(faces))
    made = {int(i): mesh.verts.new(head.base[i]) for i in ids}
    for face in faces:
        mesh.faces.new([made[v] for v in face])
    for _ in range(4):
        bmesh.ops.smooth_vert(mesh, verts=mesh.verts, factor=0.4, use_axis_x=True, use_axis_y=True, use_axis_z=True)
    mesh.normal_update()
    shift = {v: v.normal * THICKNESS for v in mesh.verts}
    for v, move in shift.items():
        v.co += move
    cut = bmesh.ops.bisect_plane(
        mesh, geom=[*mesh.verts, *mesh.edges, *mesh.faces], plane_co=NECK, plane_no=TILT, clear_outer=True
    )
    rim = np.array([item.co for item in cut["geom_cut"] if isinstance(item, bmesh.types.BMVert)])
    rim = rim[np.abs(rim[:, 0]) < 1.2]
    mesh.verts.index_update()
    points = np.array([v.co for v in mesh.verts])
    result = [[v.index for v in face.verts] for face in mesh.faces]
    mesh.free()
    centre = rim.mean(0)
    return points, result, rim[np.argsort(np.arctan2(rim[:, 1] - centre[1], rim[:, 0] - centre[0]))]


def collar(rim: Points, around: int = 96, radius: float = 0.06) -> tuple[Points, list[list[int]]]:
    """A ribbed band along the neckline."""
    closed = np.vstack([rim, rim[:1]])
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    at = np.linspace(0, lengths[-1], around, endpoint=False)
    line = np.stack([np.interp(at, lengths, closed[:, k]) for k in range(3)], axis=1)
    for _ in range(6):
        line = (np.roll(line, 1, 0) + 2 * line + np.roll(line, -1, 0)) / 4
    centre, normal = line.mean(0), np.array(TILT) / TILT.length
    outward = line - centre
    outward -= np.outer(outward @ normal, normal)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    points, faces, profile = [], [], 10
    for k in range(profile):
        turn = 2 * np.pi * k / profile
        points.append(line + outward * radius * 0.75 * np.cos(turn) + normal * (radius * 1.5 * np.sin(turn) + 0.05))
    for k in range(profile):
        for i in range(around):
            j, n = (i + 1) % around, (k + 1) % profile
            faces.append([k * around + i, k * around + j, n * around + j, n * around + i])
    return np.concatenate(points), faces
