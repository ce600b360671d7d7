"""A film of a person who speaks, as the truth for an avatar."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_evaluate import TwoDots, face

from lipsync_server.repository.source import SourceError
from lipsync_studio.prepare import film
from lipsync_studio.prepare.crop_boxes import BRIDGE_TOP, LEFT, NOSE_TIP, RIGHT

OPENINGS = [0, 0, 0, 0, 9, 3, 0, 0]


class Finder:
    """Finds the face of `face` at the box (60, 30, 100) of every picture but the second."""

    def __init__(self) -> None:
        self.seen = 0

    def detect(self, picture):
        self.seen += 1
        points = np.zeros((468, 2))
        points[LEFT], points[RIGHT], points[BRIDGE_TOP], points[NOSE_TIP] = (60, 60), (160, 60), (110, 0), (110, 100)
        return SimpleNamespace(points=None if self.seen == 2 else points)


@pytest.fixture(autouse=True)
def filmed(monkeypatch):
    monkeypatch.setattr(film, "FaceFinder", Finder)
    monkeypatch.setattr(film, "FaceMesh", TwoDots)
    monkeypatch.setattr(film, "frames_of", lambda path: (face(o) for o in OPENINGS))
    monkeypatch.setattr(film, "sound_of", lambda path, frames, late: np.full(640 * frames, 0.1, np.float32))


def test_a_film_gives_the_persons_mouth_and_the_sound():
    speech = film.read_film(Path("clip.mp4"), 30)
    assert speech.name == "clip" and len(speech.audio) == 640 * 8 and speech.frames == 8
    assert [shape.opening for shape in speech.film.shapes] == pytest.approx(OPENINGS)
    assert len(speech.film.lip_openings) == 8 and speech.film.landmarks[0].shape == (20, 2)


def test_a_film_is_cut_to_the_seconds_that_are_asked_for():
    assert len(film.read_film(Path("clip.mp4"), 0.2).film.shapes) == 5


def test_a_film_without_a_face_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(film, "FaceFinder", lambda: SimpleNamespace(detect=lambda _: SimpleNamespace(points=None)))
    with pytest.raises(SourceError, match=r"clip\.mp4: no face is found in it"):
        film.read_film(Path("clip.mp4"), 30)
