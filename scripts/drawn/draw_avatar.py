"""The demo avatar: an original drawn portrait whose mouth can be told what to do.

PYTHONPATH=scripts python -m drawn.draw_avatar avatars/demo  # writes footage.mp4 and boxes.csv
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from rich.progress import track
from drawn.draw_mouth import CENTRE, jaw_drop, paint_mouth
from drawn.vector_paint import SCALE, Canvas, colour, ellipse, mirrored, moved, spline, stroke

WIDTH, HEIGHT, FPS = 1280, 720, 25
Region = tuple[int, int, int, int]  # x, y, width, height
WHOLE: Region = (0, 0, WIDTH, HEIGHT)
FRAMES = 225  # 9 s, and the last meets the first
BOX = (476, 280, 328)  # of the head at rest: x, y, size
NECK = (640.0, 585.0)  # the head turns about it
REST = np.array([0, 0, 0, 0.35, 0, 0, 0], np.float32)  # the mouth at rest, see mouth_curves.MOUTH

SKIN, SKIN_SHADE, SKIN_LIGHT = colour("#eebb99"), colour("#cf8d6d"), colour("#fbd9bf")
BLUSH, HAIR, HAIR_DARK, HAIR_LIGHT = colour("#e58f7c"), colour("#5b352a"), colour("#3a1f1b"), colour("#8d5a41")
KNIT, KNIT_DARK, KNIT_LIGHT = colour("#2f7f86"), colour("#1f5a63"), colour("#4ba0a3")
WHITE, IRIS, IRIS_LIGHT, PUPIL = colour("#faf6f3"), colour("#4d6b4f"), colour("#8ba877"), colour("#1a1412")
WALL, WALL_LIGHT = colour("#c3cfd6"), colour("#f1ece3")

FACE = [(640, 118), (712, 132), (770, 185), (793, 270), (790, 350), (775, 418), (744, 476), (699, 519), (668, 533)]
FACE_OUTLINE = spline(mirrored([*FACE, (640, 537)], 640))


@dataclass(frozen=True)
class Pose:
    """Where the head is against its rest: shift in pixels, turn in degrees; eyes and breath."""

    x: float = 0.0
    y: float = 0.0
    turn: float = 0.0
    blink: float = 0.0  # 0 open, 1 shut
    breath: float = 0.0  # pixels that the shoulders rise
    gaze: float = 0.0  # pixels that the eyes look aside

    def matrix(self) -> np.ndarray:
        """Head at rest -> picture, [2,3]."""
        turn = cv2.getRotationMatrix2D(NECK, self.turn, 1.0)
        shift = np.array([self.x, self.y - 0.5 * self.breath])
        return np.column_stack([turn[:, :2], turn[:, 2] + shift])

    def box(self) -> tuple[int, int, int]:
        """The square crop box of the face: x, y, size."""
        x, y, size = BOX
        cx, cy = self.matrix() @ (x + size / 2, y + size / 2, 1)
        return round(cx - size / 2), round(cy - size / 2), size


def _background() -> np.ndarray:
    y, x = np.mgrid[0 : HEIGHT * SCALE, 0 : WIDTH * SCALE].astype(np.float32) / SCALE
    glow = np.exp(-(((x - 520) / 520) ** 2 + ((y - 260) / 400) ** 2))[..., None]
    wall = Canvas(np.ones((*x.shape, 4), np.float32))
    wall.pixels[..., :3] = WALL * (1 - glow) + WALL_LIGHT * glow
    for cx, cy, r, alpha in ((210, 200, 150, 0.35), (1090, 140, 100, 0.3), (1130, 560, 190, 0.22), (95, 640, 120, 0.2)):
        wall.fill(wall.mask(ellipse(cx, cy, r, r), 14), WALL_LIGHT, alpha)
    wall.fill(wall.mask(ellipse(690, 420, 250, 330), 60), WALL * 0.8, 0.35)  # the sitter's own shadow
    grain = (
        np.random.default_rng(0).uniform(-0.6, 0.6, x.shape).astype(np.float32) / 255
    )  # soft gradients show no steps
    return wall.pixels[..., :3] + grain[..., None]


def _body() -> Canvas:
    canvas = Canvas.clear(0, 420, WIDTH, 320)
    neck = spline(mirrored([(640, 470), (700, 480), (706, 560), (722, 606), (770, 632), (640, 700)], 640))
    skin = canvas.mask(neck)
    canvas.fill(skin, canvas.vertical(500, 660, SKIN_SHADE, SKIN))
    canvas.shade(skin * canvas.mask(ellipse(640, 520, 100, 62), 12), SKIN_SHADE * 0.82, 0.75)
    bones = [(598, 660), (560, 648), (520, 642)]
    for side in (1, -1):
        line = spline([(640 + side * (x - 640), y) for x, y in bones], closed=False)
        canvas.shade(skin * canvas.mask(stroke(line, 5), 2), SKIN_SHADE, 0.6)
    jumper = [(640, 690), (684, 672), (728, 618), (800, 632), (885, 660), (950, 700), (985, 790), (640, 800)]
    outline = spline(mirrored(jumper, 640))
    knit = canvas.mask(outline)
    canvas.fill(canvas.mask(moved(outline, 0, -4), 8) * skin, SKIN_SHADE, 0.55)
    canvas.fill(knit, canvas.vertical(610, 740, KNIT, KNIT_DARK))
    canvas.shade(knit * canvas.mask(ellipse(520, 640, 140, 40), 22), KNIT_LIGHT, 0.6)
    collar = spline(mirrored([(640, 690), (684, 672), (726, 619)], 640)[:3], closed=False)
    for side in (1, -1):
        line = collar if side == 1 else np.stack([1280 - collar[:, 0], collar[:, 1]], 1)
        canvas.fill(knit * canvas.mask(stroke(moved(line, 0, 6), 13, taper=False)), KNIT_DARK, 0.55)
        sleeve = spline([(640 + side * 232, 672), (640 + side * 222, 700), (640 + side * 226, 745)], closed=False)
        canvas.fill(knit * canvas.mask(stroke(sleeve, 6), 2), KNIT_DARK, 0.7)
    return canvas


def _back_hair() -> Canvas:
    canvas = Canvas.clear(400, 20, 480, 640)
    half = [(640, 48), (738, 66), (812, 150), (838, 270), (842, 400), (850, 510), (838, 590), (770, 618), (700, 600)]
    hair = canvas.mask(spline(mirrored([*half, (640, 590)], 640)))
    canvas.fill(hair, canvas.vertical(80, 600, HAIR, HAIR_DARK))
    for side in (1, -1):
        for x, bend in ((818, 8), (800, 14), (780, 20)):
            lock = [(x - bend, 240), (x + 6, 380), (x + 12, 500), (x - 6, 600)]
            line = spline([(640 + side * (px - 640), py) for px, py in lock], closed=False)
            canvas.shade(hair * canvas.mask(stroke(line, 7), 1.5), HAIR_LIGHT, 0.28)
    return canvas


def _shaded_face(canvas: Canvas) -> None:
    skin = canvas.mask(FACE_OUTLINE)
    for side in (1, -1):  # ears
        ear = canvas.mask(ellipse(640 + side * 156, 325, 17, 33))
        canvas.fill(ear, SKIN * 0.95)
        canvas.shade(ear * canvas.mask(ellipse(640 + side * 158, 325, 8, 20), 3), SKIN_SHADE, 0.8)
    canvas.fill(skin, SKIN)
    inner = canvas.mask(
        spline(mirrored([(640, 160), (730, 200), (752, 300), (735, 410), (690, 482), (640, 503)], 636)), 24
    )
    canvas.shade(skin * (1 - inner), SKIN_SHADE, 0.62)
    canvas.shade(skin * canvas.mask(ellipse(610, 200, 80, 46), 26), SKIN_LIGHT, 0.75)
    canvas.shade(skin * canvas.mask(ellipse(640, 503, 26, 13), 9), SKIN_LIGHT, 0.55)  # chin
    for side in (1, -1):
        canvas.shade(skin * canvas.mask(ellipse(640 + side * 88, 372, 36, 24), 15), BLUSH, 0.5)
        canvas.shade(skin * canvas.mask(ellipse(640 + side * 80, 345, 26, 12), 10), SKIN_LIGHT, 0.5)
        canvas.shade(skin * canvas.mask(ellipse(640 + side * 66, 262, 44, 24), 10), SKIN_SHADE, 0.4)  # eye sockets


def _nose(canvas: Canvas) -> None:
    side = spline([(655, 282), (660, 325), (668, 362), (664, 384), (648, 392)], closed=False)
    canvas.shade(canvas.mask(stroke(side, 13), 6), SKIN_SHADE, 0.6)
    canvas.shade(canvas.mask(ellipse(634, 335, 7, 44), 5), SKIN_LIGHT, 0.75)
    canvas.shade(canvas.mask(ellipse(637, 376, 12, 9), 4), SKIN_LIGHT, 0.8)
    canvas.shade(
        canvas.mask(spline([(612, 386), (626, 397), (640, 400), (654, 397), (668, 386), (640, 407)]), 2.5),
        SKIN_SHADE * 0.92,
        0.75,
    )
    for x in (624, 656):
        canvas.shade(canvas.mask(ellipse(x, 393, 6.5, 3), 1.0), SKIN_SHADE * 0.6, 0.85)
    for x, way in ((607, -1), (673, 1)):
        wing = spline([(x - 2 * way, 371), (x + 4 * way, 382), (x - 3 * way, 394)], closed=False)
        canvas.shade(canvas.mask(stroke(wing, 3.4), 0.8), SKIN_SHADE * 0.85, 0.7)
    groove = stroke(spline([(640, 408), (640, 426)], closed=False), 9)
    canvas.shade(canvas.mask(groove, 3), SKIN_SHADE, 0.35)


def _brows_and_fringe(canvas: Canvas) -> None:
    for side in (1, -1):
        arch = [(640 + side * x, y) for x, y in ((30, 234), (56, 222), (86, 220), (112, 233))]
        canvas.fill(canvas.mask(stroke(spline(arch, closed=False), 9), 0.7), HAIR_DARK, 0.9)
    shadow = spline(
        [(548, 170), (600, 186), (672, 160), (716, 118), (760, 190), (794, 300), (800, 180), (700, 90), (560, 110)]
    )
    canvas.shade(canvas.mask(shadow, 7) * canvas.mask(FACE_OUTLINE), SKIN_SHADE * 0.8, 0.5)
    left = [(706, 92), (690, 128), (640, 165), (575, 190), (528, 238), (506, 310), (492, 410), (478, 470), (452, 420)]
    left += [(446, 300), (462, 180), (520, 84), (620, 42), (700, 50)]
    right = [(700, 84), (730, 130), (766, 180), (782, 250), (786, 330), (792, 420), (806, 470), (832, 420), (836, 300)]
    right += [(818, 170), (770, 88), (700, 52)]
    for lock in (right, left):
        mask = canvas.mask(spline(lock))
        canvas.fill(
            canvas.mask(moved(spline(lock), 3, 4), 4) * (1 - mask) * canvas.mask(FACE_OUTLINE), SKIN_SHADE * 0.6, 0.35
        )
        canvas.fill(mask, canvas.vertical(60, 440, HAIR, HAIR_DARK))
    mask = np.maximum(canvas.mask(spline(left)), canvas.mask(spline(right)))
    for bend in (0, 16, 34, 54):
        line = spline(
            [(694 - bend, 74 + bend * 0.3), (610 - bend, 118), (530 - bend * 0.6, 190), (494 - bend * 0.5, 300)],
            closed=False,
        )
        canvas.fill(mask * canvas.mask(stroke(line, 6), 1.5), HAIR_LIGHT, 0.38)
        line = spline(
            [(714 + bend * 0.5, 80), (764 + bend * 0.5, 140), (796 + bend * 0.4, 230), (800 + bend * 0.4, 340)],
            closed=False,
        )
        canvas.fill(mask * canvas.mask(stroke(line, 5), 1.5), HAIR_LIGHT, 0.3)


def _paint_eye(canvas: Canvas, side: int, blink: float, gaze: float) -> None:
    x, y = 640 + side * 66, 270.0
    upper = np.array([(-35, 6), (-20, -13), (2, -20), (23, -12), (38, 2)], float) * (side, 1)
    lower = np.array([(-35, 6), (-16, 14), (4, 16.5), (23, 12), (38, 2)], float) * (side, 1)
    shut = lower * (1, 0.75)
    lid = moved(spline(upper * (1 - blink) + shut * blink, closed=False), x, y)
    floor = moved(spline(lower * (1 - 0.2 * blink), closed=False), x, y)
    opening = canvas.mask(np.concatenate([lid, floor[::-1]])) * float(blink < 0.97)
    canvas.fill(opening, WHITE)
    canvas.fill(opening * canvas.mask(moved(lid, 0, -2), 4), WHITE * 0.55, 0.5)
    ix, iy = x + gaze + side * 1.5, y - 1.5
    canvas.fill(opening * canvas.mask(ellipse(ix, iy, 17, 17)), IRIS * 0.55)
    canvas.fill(opening * canvas.mask(ellipse(ix, iy, 15, 15)), IRIS)
    canvas.fill(opening * canvas.mask(ellipse(ix, iy + 6, 9, 6), 2), IRIS_LIGHT, 0.85)
    canvas.fill(opening * canvas.mask(ellipse(ix, iy, 7.2, 7.2)), PUPIL)
    canvas.fill(opening * canvas.mask(stroke(moved(lid, 0, 3), 9), 2), PUPIL, 0.35)
    canvas.fill(opening * canvas.mask(ellipse(ix - 5, iy - 6, 3.8, 3.8), 0.4), WHITE)
    canvas.fill(opening * canvas.mask(ellipse(ix + 5, iy + 5, 1.9, 1.9), 0.4), WHITE, 0.7)
    crease = moved(spline(upper, closed=False), x, y - 8 + 3 * blink)
    canvas.shade(canvas.mask(stroke(crease, 3), 0.9), SKIN_SHADE * 0.75, 0.8)
    canvas.shade(canvas.mask(stroke(moved(floor, 0, 2), 2.2), 0.7), SKIN_SHADE * 0.8, 0.7)
    canvas.fill(canvas.mask(stroke(lid, 5.2), 0.4), HAIR_DARK * 0.6, 0.95)
    lash = spline(
        [(x + side * 30, y - 3 + 9 * blink), (x + side * 37, y - 2 + 10 * blink), (x + side * 42, y - 6 + 15 * blink)],
        closed=False,
    )
    canvas.fill(canvas.mask(stroke(lash, 3.4), 0.4), HAIR_DARK * 0.6, 0.9)


class Portrait:
    """The painted layers; `draw` puts them together for a pose and a mouth."""

    def __init__(self) -> None:
        self.wall, self.body, self.back_hair = _background(), _body(), _back_hair()
        self.face = Canvas.clear(430, 30, 420, 560)
        _shaded_face(self.face)
        _nose(self.face)
        _brows_and_fringe(self.face)
        self.kept: tuple[Pose, Region, np.ndarray] | None = None

    def _head(self, pose: Pose, mouth: np.ndarray, needed: Region) -> Canvas:
        """The head at rest with its eyes and mouth, as far as it is needed (x, y, width, height)."""
        head = self.face.part(*needed).copy()
        for side in (1, -1):
            _paint_eye(head.part(640 + side * 66 - 60, 220, 120, 90), side, pose.blink, pose.gaze)
        jaw = head.part(440, 380, 400, 205)
        rows, columns = (np.arange(n, dtype=np.float32) for n in jaw.pixels.shape[:2])
        down = np.clip((rows / SCALE + jaw.origin[1] - 410) / 110, 0, 1)[:, None]
        across = np.exp(-(((columns / SCALE + jaw.origin[0] - 640) / 115) ** 4))[None]
        drop = jaw_drop(mouth) * SCALE * down * across
        x, y = np.meshgrid(columns, rows)
        smooth = (3 - 2 * down) * down
        jaw.pixels[:] = cv2.remap(jaw.pixels, x, y - drop * smooth, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        paint_mouth(head.part(CENTRE[0] - 90, CENTRE[1] - 44, 180, 120), mouth)
        return head

    def draw(
        self, pose: Pose, mouth: np.ndarray, region: tuple[int, int, int, int] = (0, 0, WIDTH, HEIGHT)
    ) -> np.ndarray:
        """The picture, or a region (x, y, width, height) of it: BGR uint8 [height, width, 3].

        Args:
            mouth: FP32 [7] in 0..1, see `mouth_curves.MOUTH`.
        """
        picture = self._behind(pose, region).copy()
        self._put(picture, self._head(pose, mouth, _around(region)), pose.matrix(), region)
        picture = cv2.resize(picture, region[2:], interpolation=cv2.INTER_AREA)
        return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)

    def _behind(self, pose: Pose, region: Region) -> np.ndarray:
        """What lies behind the head; kept until another pose or region is drawn."""
        if self.kept is not None and self.kept[:2] == (pose, region):
            return self.kept[2]
        x, y, width, height = region
        picture = self.wall[y * SCALE : (y + height) * SCALE, x * SCALE : (x + width) * SCALE].copy()
        still = np.array([[1, 0, 0], [0, 1, -pose.breath]], float)
        self._put(picture, self.back_hair.part(*_around(region)), pose.matrix(), region)
        self._put(picture, self.body.part(*_around(region)), still, region)
        self.kept = (pose, region, picture)
        return picture

    @staticmethod
    def _put(picture: np.ndarray, layer: Canvas, matrix: np.ndarray, region: Region) -> None:
        """Lay a moved layer over the picture of a region."""
        x, y, width, height = region
        moved = matrix.copy()  # layer pixels -> whole picture -> region pixels, all times SCALE
        moved[:, 2] = (matrix[:, :2] @ layer.origin + matrix[:, 2] - (x, y)) * SCALE
        warped = cv2.warpAffine(layer.pixels, moved, (width * SCALE, height * SCALE), flags=cv2.INTER_LINEAR)
        picture *= 1 - warped[..., 3:]
        picture += warped[..., :3]


def _around(region: Region) -> Region:
    """What of a layer at rest can come into a region: the head moves less than this."""
    x, y, width, height = region
    return x - 12, y - 12, width + 24, height + 24


def pose_at(frame: int) -> Pose:
    """The footage's pose: a few pixels of slow motion made of whole cycles, so that the loop closes."""
    t = 2 * np.pi * frame / FRAMES
    shuts = [abs((frame - at + FRAMES / 2) % FRAMES - FRAMES / 2) for at in (42, 118, 126, 189)]
    return Pose(
        x=3.2 * np.sin(t) + 1.2 * np.sin(2 * t + 1),
        y=1.8 * np.sin(2 * t + 0.5) + 0.8 * np.sin(3 * t),
        turn=0.9 * np.sin(t + 0.8) + 0.35 * np.sin(3 * t + 2),
        blink=float(np.clip(1.35 - min(shuts) * 0.42, 0, 1)),
        breath=1.6 * (1 - np.cos(2 * t)),
        gaze=1.2 * np.sin(t + 2.0),
    )


def make_footage(folder: Path) -> None:
    """Write footage.mp4 (H.264, the mouth at rest) and boxes.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    portrait = Portrait()
    with av.open(folder / "footage.mp4", "w") as file, (folder / "boxes.csv").open("w", newline="") as table:
        stream = file.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "14", "preset": "slow"}
        rows = csv.writer(table)
        rows.writerow(["x", "y", "size"])
        for number in track(range(FRAMES), description="drawing"):
            pose = pose_at(number)
            rows.writerow(pose.box())
            picture = portrait.draw(pose, REST)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        file.mux(stream.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    make_footage(parser.parse_args().folder)
