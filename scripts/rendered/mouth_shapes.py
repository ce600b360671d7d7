"""Maps mouth curves (`mouth_curves.MOUTH`) to face units, jaw, teeth and tongue."""

from __future__ import annotations

import numpy as np

from head_mesh import Points

JAW = 0.66  # jawOpen of a fully open mouth
JAW_MOVE = np.array([0.0, 0.13, -0.23])  # dm that the lower teeth move under jawOpen = 1, as the chin does


def jaw_of(mouth: dict[str, float]) -> float:
    """jawOpen, 0..1."""
    wanted = JAW * mouth.get("open", 0.0) * (1 - 0.85 * mouth.get("press", 0.0)) * (1 - 0.55 * mouth.get("bite", 0.0))
    return wanted * (1 - 0.35 * mouth.get("teeth", 0.0)) * (1 - 0.2 * mouth.get("round", 0.0))


def units_of(mouth: dict[str, float]) -> dict[str, float]:
    """Face units of a mouth; {} is the face at rest."""
    get = lambda name: float(mouth.get(name, 0.0))  # noqa: E731
    wide, rounded, press, bite, teeth = (get(n) for n in ("wide", "round", "press", "bite", "teeth"))
    jaw, free = jaw_of(mouth), 1 - min(1.0, press + bite)
    shut = max(0.0, press - 0.35) / 0.65
    return {
        "jawOpen": jaw + 0.1 * bite,
        "mouthClose": 0.9 * press * jaw,
        "mouthStretch": 0.42 * wide,
        "mouthSmile": 0.18 * wide,
        "mouthPucker": 0.85 * rounded,
        "mouthFunnel": 0.35 * rounded * free,
        "mouthUpperUp": (0.22 * teeth + 0.12 * wide) * free + 0.55 * bite,
        "mouthLowerDown": (0.55 * teeth + 0.15 * wide) * free,
        "mouthPress": 0.2 * shut,
        "mouthRollUpper": 0.12 * shut,
        "mouthRollLower": 0.12 * shut + 0.75 * bite,
        "mouthShrugLower": 0.3 * bite + 0.22 * shut,
    }


def pose_teeth(points: Points, row: str, mouth: dict[str, float]) -> Points:
    """The lower row follows the jaw."""
    return points + JAW_MOVE * jaw_of(mouth) if row == "lower" else points


def pose_tongue(points: Points, mouth: dict[str, float]) -> Points:
    """The tongue follows the jaw; `tongue` lifts its tip towards the upper teeth."""
    lift = float(mouth.get("tongue", 0.0))
    tip = np.clip((-0.75 - points[:, 1]) / 0.45, 0, 1)[:, None] ** 2
    room = 0.24 * jaw_of(mouth)
    return points + JAW_MOVE * jaw_of(mouth) + tip * lift * np.array([0.0, -0.1, 0.02 + 0.75 * room])
