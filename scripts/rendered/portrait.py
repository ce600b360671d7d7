"""Composes frames from the rendered pictures: any pose of the head, any state of the lids, any mouth.

The portrait is one rendering before a soft background. The head turns about the neck: its pixels, whose depth is known,
move as points in space. The shoulders stay in place and move with the breath. Mouths and lids
replace the portrait's pixels before the turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from framing import EYES_REGION, FACE_DISTANCE, HEIGHT, LIDS, MOUTH_REGION, PIXELS, WIDTH, Region
from head_mesh import HeadMesh
from mouth_states import ShapeSpace

FPS, FRAMES = 25, 225  # 9 s, and the last frame meets the first
BOX = (490, 334, 300)  # the face at rest: x, y, size
MOUTH = (640, 447)  # its middle at rest
NECK = np.array([640.0, 590.0, -0.9 * PIXELS])  # pixels right, down, and towards the camera: the head turns about it
SHOULDERS = (545, 668)  # rows between which the head's motion fades out
Frame = NDArray[np.uint8]
Motion = tuple[NDArray[np.float32], NDArray[np.float32]]  # for each pixel, the x and y in the portrait that it shows


@dataclass(frozen=True)
class Pose:
    """Turns in degrees, shifts in pixels, and which of the rendered lids."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    x: float = 0.0
    y: float = 0.0
    breath: float = 0.0
    lids: int = 0


def pose_at(frame: int) -> Pose:
    """The pose of a footage frame: whole cycles of slow waves, so that the loop closes, and four blinks."""
    t = 2 * np.pi * frame / FRAMES
    lids = 0
    for start in (31, 96, 104, 171):
        step = (frame - start) % FRAMES
        lids = (1, 3, 4, 4, 3, 2, 1)[step] if step < 7 else lids
    return Pose(
        yaw=1.9 * np.sin(t + 0.4) + 0.7 * np.sin(2 * t + 2.0) + 0.25 * np.sin(5 * t),
        pitch=0.9 * np.sin(2 * t + 1.0) + 0.4 * np.sin(3 * t + 0.5),
        roll=0.8 * np.sin(t + 2.2) + 0.3 * np.sin(3 * t),
        x=2.0 * np.sin(t + 0.2),
        y=0.8 * np.sin(2 * t + 2.6),
        breath=1.3 * (1 - np.cos(2 * t)),
        lids=lids,
    )


def background() -> NDArray[np.float32]:
    """The background, a room out of focus: a wall with a window's light, BGR 0..255."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    wall = np.array([122, 128, 132], np.float32) + (x / WIDTH)[..., None] * np.array([-34, -36, -36], np.float32)
    light = np.exp(-(((x - 180) / 420) ** 2 + ((y - 210) / 360) ** 2))[..., None]
    room = wall + light * np.array([62, 67, 69], np.float32)
    blocks = np.zeros_like(room)
    for x0, y0, x1, y1, colour in (
        (60, -40, 300, 480, (26, 30, 32)),  # window
        (330, -40, 400, 480, (34, 34, 30)),
        (960, 120, 1210, 250, (-26, -30, -34)),  # shelves
        (960, 290, 1210, 420, (-22, -28, -34)),
        (980, 170, 1010, 250, (10, 18, 48)),
        (1016, 185, 1060, 250, (34, 30, -4)),
        (1100, 320, 1150, 420, (-4, 16, 10)),
        (-20, 610, 1300, 760, (-30, -34, -38)),  # a table's edge
    ):
        cv2.rectangle(blocks, (x0, y0), (x1, y1), colour, -1)
    room += cv2.GaussianBlur(blocks, (0, 0), 24)
    grain = np.random.default_rng(0).uniform(-0.7, 0.7, (HEIGHT, WIDTH, 1))  # soft gradients show no steps
    return np.clip(room + grain, 0, 255).astype(np.float32)


def _feather(width: int, height: int, soft: float) -> NDArray[np.float32]:
    """1 inside, 0 at the border, [height,width,1]."""
    y, x = np.mgrid[0:height, 0:width]
    edge = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y))
    t = np.clip(edge / soft, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)[..., None]


def _part(region: Region) -> tuple[slice, slice]:
    x, y, width, height = region
    return slice(y, y + height), slice(x, x + width)


class Portrait:
    """The pictures of `render.py`'s folder. Inside they are float BGR, premultiplied by their alpha."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.picture = self._read("portrait")
        self.wall = background()
        rendered = len(list(folder.glob("mouth_*.png")))  # the coarsest cover comes first: a part of them will do
        self.states = np.load(folder / "mouths.npy")[:rendered]
        self.space = ShapeSpace(HeadMesh())
        self.state_points = self.space.points(self.states)
        self._read_depth()
        self._read_mouths()
        self.lids = [self._with_lids(level) for level in range(len(LIDS))]

    def _read(self, name: str) -> NDArray[np.float32]:
        stored = cv2.imread(str(self.folder / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        if stored is None:
            raise FileNotFoundError(f"{self.folder / name}.png is missing: run scripts/rendered/render.py to its end")
        picture: NDArray[np.float32] = stored.astype(np.float32)
        picture[..., :3] *= picture[..., 3:] / 255
        return picture

    def _read_depth(self) -> None:
        near = (FACE_DISTANCE - np.load(self.folder / "depth.npy")) * PIXELS  # pixels towards the camera
        holes = np.isnan(near)
        rows, columns = distance_transform_edt(holes, return_distances=False, return_indices=True)
        near = gaussian_filter(near[rows, columns], 2.6)
        self.near = cv2.resize(near, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
        self.x, self.y = x, y
        t = np.clip((y - SHOULDERS[0]) / (SHOULDERS[1] - SHOULDERS[0]), 0, 1)
        self.head = 1 - t * t * (3 - 2 * t)

    def _shade(self, region: Region, plain: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
        """The shade of the hair, to add to a region that was rendered without hair."""
        weight = cv2.GaussianBlur(mask, (0, 0), 7)[..., None] + 1e-4
        return cv2.GaussianBlur((self.picture[_part(region)] - plain) * mask, (0, 0), 7) / weight

    def _read_mouths(self) -> None:
        """Mouths were rendered without hair: its shade is added; under it, brightness changes by the same factor."""
        rest, here = self._read("mouth_000"), self.picture[_part(MOUTH_REGION)]
        change = np.abs(here[..., :3] - rest[..., :3]).max(2)
        hair = cv2.GaussianBlur(cv2.dilate((change > 38).astype(np.float32), np.ones((5, 5))), (0, 0), 2.5)[..., None]
        shade = self._shade(MOUTH_REGION, rest, 1 - hair)
        self.mouth_mask = _feather(MOUTH_REGION[2], MOUTH_REGION[3], 22)
        self.mouths = [here.astype(np.uint8)]
        for number in range(1, len(self.states)):
            mouth = self._read(f"mouth_{number:03d}")
            skin = np.minimum(mouth[..., 3:], rest[..., 3:]) / 255
            factor = cv2.GaussianBlur(np.clip((mouth + 10) / (rest + 10), 0.25, 1.25), (0, 0), 1.2)
            behind = here + skin * here * (factor - 1)
            picture = (1 - hair) * (mouth + shade) + hair * behind
            self.mouths.append(np.clip(picture, 0, 255).astype(np.uint8))

    def _with_lids(self, level: int) -> NDArray[np.float32]:
        picture, inside = self.picture.copy(), _part(EYES_REGION)
        if level:
            plain, lids = self._read("lids_0"), self._read(f"lids_{level}")
            changed = (cv2.GaussianBlur(np.abs(lids - plain).max(2), (0, 0), 1.5) > 7).astype(np.float32)
            changed = cv2.GaussianBlur(cv2.dilate(changed, np.ones((5, 5))), (0, 0), 2.0)[..., None]
            changed = changed * _feather(EYES_REGION[2], EYES_REGION[3], 12)
            shade = self._shade(EYES_REGION, plain, 1 - changed)
            picture[inside] = np.clip(picture[inside] + changed * (lids + shade - picture[inside]), 0, 255)
        return picture

    def nearest(self, mouth: NDArray[np.float32]) -> int:
        """Number of the rendered mouth that is nearest to the curves [7] of a frame."""
        return int(np.linalg.norm(self.state_points - self.space.points([mouth]), axis=1).argmin())

    def motion(self, pose: Pose) -> Motion:
        """For each pixel of the picture, its position in the portrait: x, y."""
        yaw, pitch, roll = np.radians([pose.yaw, pose.pitch, pose.roll])
        about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
        about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
        turn = (about_z @ about_x @ about_y).astype(np.float32)
        place = np.stack([self.x - NECK[0], self.y - NECK[1], self.near - NECK[2]], axis=2).astype(np.float32)
        moved = cv2.transform(place, turn) - place
        nearer = 1 + moved[..., 2] / (PIXELS * FACE_DISTANCE)  # perspective: what comes nearer grows
        dx = moved[..., 0] + pose.x + (self.x - WIDTH / 2) * (nearer - 1)
        dy = moved[..., 1] + pose.y + (self.y - HEIGHT / 2) * (nearer - 1)
        dx, dy = dx * self.head, dy * self.head - pose.breath * (1 - 0.5 * self.head)
        x, y = self.x - dx, self.y - dy
        for _ in range(3):  # x + dx(x) = where we look
            at_x = cv2.remap(dx, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            at_y = cv2.remap(dy, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            x, y = self.x - at_x, self.y - at_y
        return x, y

    def frame(self, pose: Pose) -> Frame:
        """The whole picture with the mouth at rest, BGR uint8 [720,1280,3]."""
        x, y = self.motion(pose)
        seen = cv2.remap(self.lids[pose.lids], x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return np.clip(seen[..., :3] + self.wall * (1 - np.clip(seen[..., 3:] / 255, 0, 1)), 0, 255).astype(np.uint8)

    def box(self, pose: Pose) -> tuple[int, int, int]:
        """The square crop box of the face: x, y, size."""
        x, y = self.motion(pose)
        left = 2 * MOUTH[0] - x[MOUTH[1], MOUTH[0]] + BOX[0] - MOUTH[0]
        top = 2 * MOUTH[1] - y[MOUTH[1], MOUTH[0]] + BOX[1] - MOUTH[1]
        return round(left), round(top), BOX[2]

    def speaking(self, footage: Frame, motion: Motion, mouth: int) -> Frame:
        """A part of the footage with another mouth. `motion`: the positions of its pixels in the portrait, x and y."""
        if mouth == 0:
            return footage
        x, y = motion[0] - MOUTH_REGION[0], motion[1] - MOUTH_REGION[1]
        picture = cv2.remap(self.mouths[mouth][..., :3], x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        mask = cv2.remap(self.mouth_mask, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)[..., None]
        return np.round(footage + (picture.astype(np.float32) - footage) * mask).astype(np.uint8)
