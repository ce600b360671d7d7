"""Contact sheets of a recording: consecutive mouths, whole frames, and curves over time."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from lipsync_studio.evaluation import metrics
from lipsync_studio.evaluation.patch_metrics import Picture
from lipsync_studio.evaluation.recording import Recording

COLUMNS, ROWS = 8, 6  # of a sheet of mouths: two seconds
SHEET_WIDTHS = 1.9  # mouth widths in a picture of a sheet
PAPER, INK, FAINT = (255, 255, 255), (40, 40, 40), (200, 200, 200)
BLUE, ORANGE = (200, 110, 30), (30, 120, 235)  # BGR


def write_sheets(recording: Recording, folder: Path) -> None:
    """Write NAME_mouth.png, NAME_overview.png and NAME_curves.png, with the name of the speech."""
    name = recording.speech.name
    first = liveliest(recording.curve("opening"), COLUMNS * ROWS)
    cv2.imwrite(str(folder / f"{name}_mouth.png"), mouth_sheet(recording, first))
    rows = [np.hstack(recording.overview[i : i + 4]) for i in range(0, len(recording.overview) // 4 * 4, 4)]
    if rows:
        whole = np.vstack(rows)
        width = 480 * 4
        size = (width, whole.shape[0] * width // whole.shape[1])
        cv2.imwrite(str(folder / f"{name}_overview.png"), cv2.resize(whole, size, interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(folder / f"{name}_curves.png"), curves_sheet(recording))


def liveliest(opening: metrics.Curve, count: int) -> int:
    """The first of the `count` consecutive frames in which the mouth moves most."""
    if len(opening) <= count:
        return 0
    travelled = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(opening)))])
    return int(np.argmax(travelled[count - 1 :] - travelled[: len(travelled) - count + 1]))


def mouth_sheet(recording: Recording, first: int, rows: int = ROWS) -> Picture:
    """Consecutive mouths at full size, from the frame `first` on. The truth is below each row where it is known."""
    kinds = [recording.mouths] + ([recording.true_mouths] if recording.true_mouths else [])
    size = np.max([picture.shape[:2] for kind in kinds for picture in kind], axis=0).tolist()
    lines = []
    for begin in range(first, min(first + COLUMNS * rows, len(recording.mouths)), COLUMNS):
        for kind, pictures in enumerate(kinds):
            cells = [
                labelled(p, f"{begin + i}" + " truth" * kind, *size)
                for i, p in enumerate(pictures[begin : begin + COLUMNS])
            ]
            blank = np.full_like(cells[0], 255)
            lines.append(np.hstack(cells + [blank] * (COLUMNS - len(cells))))
    return np.vstack(lines)


def labelled(picture: Picture, label: str, height: int, width: int) -> Picture:
    """A labelled picture with a white rim up to a common size: crop boxes differ by some pixels."""
    rim = height - picture.shape[0], width - picture.shape[1]
    result = cv2.copyMakeBorder(picture, 0, rim[0], 0, rim[1], cv2.BORDER_CONSTANT, value=PAPER)
    cv2.putText(result, label, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, PAPER, 2, cv2.LINE_AA)
    cv2.putText(result, label, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, INK, 1, cv2.LINE_AA)
    return np.asarray(result, np.uint8)


def curves_sheet(recording: Recording) -> Picture:
    """Opening over time (blue) and the expected one (orange), from phonemes or else the envelope; 10 s a row."""
    opening = recording.curve("opening")
    expected = recording.expected()[0] if recording.speech.phones else recording.envelope()
    high = max(float(opening.max()), 1e-6), max(float(expected.max()), 1e-6)
    row, step, height = 250, 6, 120
    lines = []
    for begin in range(0, len(opening), row):
        paper = np.full((height, row * step, 3), 255, np.uint8)
        for frame in range(0, row, 25):
            cv2.line(paper, (frame * step, 0), (frame * step, height), FAINT, 1)
        for curve, top, colour in ((expected, high[1], ORANGE), (opening, high[0], BLUE)):
            part = curve[begin : begin + row]
            y = height - 8 - part / top * (height - 16)
            line = np.stack([np.arange(len(part)) * step, y], 1).round().astype(np.int32)
            cv2.polylines(paper, [line], False, colour, 2, cv2.LINE_AA)
        lines.append(paper)
    return np.vstack(lines)
