"""Selects the mouths to render: a few hundred, so that any mouth of speech is a pixel or two from one of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framing import PIXELS
from head_mesh import HeadMesh
from lipsync_studio.corpus.mouth_curves import MOUTH, TARGETS, mouth_curves
from lipsync_studio.corpus.speech_data import load_corpus
from mouth_shapes import jaw_of, units_of

REST = np.array([0, 0, 0, 0.35, 0, 0, 0], np.float32)
LIPS = (0.45, -1.2, 5.75, 6.25)  # |x| below, y below, z between: the skin that moves with speech
TONGUE = 6.0  # pixels that the tongue's rise counts as


def as_dict(mouth: NDArray[np.float32]) -> dict[str, float]:
    """The curves of one frame by name."""
    return {name: float(value) for name, value in zip(MOUTH, mouth, strict=True)}


class ShapeSpace:
    """Mouths as points whose distances are pixels (root mean square over the lips)."""

    def __init__(self, head: HeadMesh) -> None:
        x, y, z = head.base.T
        near = (np.abs(x) < LIPS[0]) & (y < LIPS[1]) & (z > LIPS[2]) & (z < LIPS[3])
        near[head.ids("body").max() + 1 :] = False
        self.names = list(units_of({}))
        moves = np.stack([head.unit(name)[near][:, [0, 2]].ravel() for name in self.names]) * PIXELS
        gram = moves @ moves.T / near.sum()  # inner products between units, square pixels
        values, vectors = np.linalg.eigh(gram)
        self.root = vectors * np.sqrt(np.maximum(values, 0))

    def points(self, mouths: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
        """[N,7] curves -> [N,units+2]."""
        found = []
        for mouth in mouths:
            named = as_dict(mouth)
            units = units_of(named)
            found.append(
                [*(np.array([units[n] for n in self.names]) @ self.root), named["tongue"] * TONGUE, 8 * jaw_of(named)]
            )
        return np.array(found)


def choose(corpus: Path, head: HeadMesh, count: int, sentences: int = 160) -> NDArray[np.float32]:
    """Choose `count` mouths [count,7]: rest, the phonemes' own shapes, then always the one farthest from all before."""
    speeches = load_corpus(corpus)
    rng = np.random.default_rng(0)
    picked = [speeches[i] for i in rng.permutation(len(speeches))[:sentences]]
    spoken = np.concatenate([mouth_curves(s.phones, s.audio, s.frames)[0] for s in picked])
    targets = np.array([values[:7] for values in TARGETS.values()], np.float32)
    candidates = np.concatenate([REST[None], targets, spoken])
    points = ShapeSpace(head).points(candidates)
    chosen = list(range(1 + len(targets)))
    nearest = np.min([np.linalg.norm(points - points[i], axis=1) for i in chosen], axis=0)
    while len(chosen) < count:
        new = int(nearest.argmax())
        chosen.append(new)
        nearest = np.minimum(nearest, np.linalg.norm(points - points[new], axis=1))
    print(f"{count} mouths: spoken ones are {nearest.mean():.2f} px from the nearest, at most {nearest.max():.2f}")
    return candidates[chosen].astype(np.float32)
