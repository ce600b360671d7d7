"""The materials of the surfaces."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

Colour = tuple[float, float, float]  # linear RGB


def plain(name: str, colour: Colour, roughness: float, subsurface: float = 0.0) -> bpy.types.Material:
    """One colour."""
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    bsdf = made.node_tree.nodes["Principled BSDF"]
    bsdf.inputs["Base Color"].default_value = (*colour, 1)
    bsdf.inputs["Roughness"].default_value = roughness
    if subsurface:
        bsdf.inputs["Subsurface Weight"].default_value = subsurface
        bsdf.inputs["Subsurface Scale"].default_value = 0.03
        bsdf.inputs["Subsurface Radius"].default_value = (1, 0.35, 0.2)
    return made


class Nodes:
    """Short names for building a material's graph."""

    def __init__(self, material: bpy.types.Material) -> None:
        self.nodes, self.links = material.node_tree.nodes, material.node_tree.links
        self.bsdf = self.nodes["Principled BSDF"]

    def add(self, kind: str, **settings):
        node = self.nodes.new("ShaderNode" + kind)
        for name, value in settings.items():
            setattr(node, name, value)
        return node

    def texture(self, path: Path):
        """A greyscale mask by the mesh's own texture coordinates."""
        node = self.add("TexImage", image=bpy.data.images.load(str(path)))
        node.image.colorspace_settings.name = "Non-Color"
        return node.outputs["Color"]

    def mix(self, factor, first, second, kind: str = "MIX"):
        """Colours or sockets -> a colour socket."""
        node = self.add("Mix", data_type="RGBA", blend_type=kind)
        for socket, value in ((node.inputs[0], factor), (node.inputs[6], first), (node.inputs[7], second)):
            if isinstance(value, bpy.types.NodeSocket):
                self.links.new(value, socket)
            else:
                socket.default_value = value if isinstance(value, (int, float)) else (*value, 1)
        return node.outputs[2]

    def noise(self, scale: float, detail: float = 3, low: float = 0.0, high: float = 1.0):
        """Noise by position, its middle range spread to 0..1."""
        place = self.add("TexCoord")
        node = self.add("TexNoise")
        node.inputs["Scale"].default_value, node.inputs["Detail"].default_value = scale, detail
        self.links.new(place.outputs["Object"], node.inputs["Vector"])
        spread = self.add("MapRange", clamp=True)
        spread.inputs[1].default_value, spread.inputs[2].default_value = low, high
        self.links.new(node.outputs["Fac"], spread.inputs[0])
        return spread.outputs[0]

    def ball(self, centre, radius: float):
        """1 at a point, falling to 0 at the distance `radius`."""
        place, far = self.add("TexCoord"), self.add("VectorMath", operation="DISTANCE")
        far.inputs[1].default_value = centre
        self.links.new(place.outputs["Object"], far.inputs[0])
        fall = self.add("MapRange", interpolation_type="SMOOTHSTEP")
        fall.inputs[1].default_value, fall.inputs[2].default_value = radius, 0.0
        self.links.new(far.outputs["Value"], fall.inputs[0])
        return fall.outputs[0]

    def times(self, socket, factor: float):
        node = self.add("Math", operation="MULTIPLY")
        node.inputs[1].default_value = factor
        self.links.new(socket, node.inputs[0])
        return node.outputs[0]

    def bump(self, height, strength: float, distance: float) -> None:
        node = self.add("Bump")
        node.inputs["Strength"].default_value, node.inputs["Distance"].default_value = strength, distance
        self.links.new(height, node.inputs["Height"])
        self.links.new(node.outputs[0], self.bsdf.inputs["Normal"])


def skin(data: Path, eye) -> bpy.types.Material:
    """Warm skin with rosy cheeks and nose, lips, pores, and a dark inside of the mouth."""
    made = plain("skin", (0.6, 0.36, 0.26), 0.45, subsurface=0.3)
    n = Nodes(made)
    x, y, z = (float(v) for v in eye)
    colour = n.mix(n.noise(9, 4, 0.35, 0.7), (0.67, 0.405, 0.285), (0.59, 0.335, 0.235))
    for side in (1, -1):
        colour = n.mix(n.times(n.ball((side * (x + 0.2), y - 0.08, z - 0.34), 0.42), 0.35), colour, (0.62, 0.24, 0.19))
        colour = n.mix(n.times(n.ball((side * x, y - 0.1, z + 0.09), 0.2), 0.3), colour, (0.42, 0.21, 0.16))
    colour = n.mix(n.times(n.ball((0, y - 0.45, z - 0.28), 0.2), 0.25), colour, (0.6, 0.25, 0.2))
    lips = n.texture(data / "mpfb2/textures/mpfb_lips.jpg")
    colour = n.mix(lips, colour, (0.46, 0.125, 0.12))
    colour = n.mix(n.texture(data / "mpfb2/textures/mpfb_inside-mouth.jpg"), colour, (0.16, 0.03, 0.03))
    n.links.new(colour, n.bsdf.inputs["Base Color"])
    rough = n.add("MapRange")
    rough.inputs[3].default_value, rough.inputs[4].default_value = 0.47, 0.3
    n.links.new(lips, rough.inputs[0])
    n.links.new(rough.outputs[0], n.bsdf.inputs["Roughness"])
    n.bsdf.inputs["Specular IOR Level"].default_value = 0.42
    n.bump(n.noise(120, 4), 0.14, 0.008)
    return made


def knit() -> bpy.types.Material:
    """Fine wool."""
    made = plain("knit", (0.5, 0.46, 0.4), 0.9)
    n = Nodes(made)
    wave = n.add("TexWave", bands_direction="X")
    wave.inputs["Scale"].default_value, wave.inputs["Distortion"].default_value = 9.0, 1.2
    n.links.new(n.add("TexCoord").outputs["Object"], wave.inputs["Vector"])
    colour = n.mix(wave.outputs["Fac"], (0.4, 0.37, 0.325), (0.56, 0.525, 0.465))
    n.links.new(n.mix(n.times(n.noise(40, 3), 0.3), colour, (0.33, 0.3, 0.26)), n.bsdf.inputs["Base Color"])
    n.bsdf.inputs["Sheen Weight"].default_value = 0.35
    n.bump(wave.outputs["Fac"], 0.5, 0.03)
    return made


def hair_of(name: str, melanin: float) -> bpy.types.Material:
    """Brown hair."""
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    nodes = made.node_tree.nodes
    shader = nodes.new("ShaderNodeBsdfHairPrincipled")
    shader.parametrization = "MELANIN"
    shader.inputs["Melanin"].default_value, shader.inputs["Melanin Redness"].default_value = melanin, 0.35
    shader.inputs["Roughness"].default_value, shader.inputs["Radial Roughness"].default_value = 0.32, 0.4
    shader.inputs["Random Color"].default_value = 0.25
    made.node_tree.links.new(shader.outputs[0], nodes["Material Output"].inputs["Surface"])
    return made


def eye(radius: float) -> bpy.types.Material:
    """A painted eyeball under a clear wet coat."""
    made = plain("eye", (0.8, 0.78, 0.76), 0.35, subsurface=0.1)
    n = Nodes(made)
    picture = _painted_eye()
    image = bpy.data.images.new("eye", *picture.shape[1::-1], float_buffer=True)
    image.colorspace_settings.name = "Non-Color"
    image.pixels.foreach_set(picture.astype("f4").ravel())
    image.pack()
    place, shrink, turn = n.add("TexCoord"), n.add("Mapping"), n.add("SeparateXYZ")
    n.links.new(place.outputs["Object"], turn.inputs[0])
    join = n.add("CombineXYZ")
    n.links.new(turn.outputs["X"], join.inputs["X"])
    n.links.new(turn.outputs["Z"], join.inputs["Y"])
    shrink.inputs["Location"].default_value = (0.5, 0.5, 0)
    shrink.inputs["Scale"].default_value = (0.5 / radius, 0.5 / radius, 1)
    n.links.new(join.outputs[0], shrink.inputs["Vector"])
    texture = n.add("TexImage", image=image, extension="EXTEND")
    n.links.new(shrink.outputs[0], texture.inputs["Vector"])
    n.links.new(texture.outputs["Color"], n.bsdf.inputs["Base Color"])
    n.bsdf.inputs["Specular IOR Level"].default_value = 0.0  # the coat alone reflects: a dull one greys the pupil
    n.bsdf.inputs["Coat Weight"].default_value, n.bsdf.inputs["Coat Roughness"].default_value = 1.0, 0.02
    n.bsdf.inputs["Coat IOR"].default_value = 1.45
    return made


def _painted_eye(size: int = 512) -> np.ndarray:
    """An eye from the front: white with a touch of red at its corners, a limbal ring, a fibrous iris, a pupil."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    r, turn = np.hypot(x, y), np.arctan2(y, x)
    rng = np.random.default_rng(4)
    fibres = sum(np.cos(turn * k + rng.uniform(0, 6.28) + 3 * r * rng.normal()) / k**0.35 for k in range(7, 70, 3)) / 6
    white = np.array([0.8, 0.76, 0.73]) - np.clip(r - 0.55, 0, 1)[..., None] * np.array([0.12, 0.34, 0.36])
    iris_edge, pupil_edge = 0.46, 0.21
    t = np.clip((r - pupil_edge) / (iris_edge - pupil_edge), 0, 1)[..., None]
    iris = np.array([0.3, 0.15, 0.05]) * (1 - t) + np.array([0.11, 0.1, 0.06]) * t
    iris = iris * (1 + 0.55 * fibres[..., None]) * (1 - 0.85 * np.clip((t - 0.72) / 0.28, 0, 1) ** 1.5)
    step = lambda at, soft: np.clip((at + soft - r) / (2 * soft), 0, 1)[..., None]  # noqa: E731
    colour = white + (iris - white) * step(iris_edge, 0.025)
    colour = colour + (0.004 - colour) * step(pupil_edge, 0.012)
    return np.concatenate([np.clip(colour, 0, 1), np.ones((size, size, 1))], axis=2)
