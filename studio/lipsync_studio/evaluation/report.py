"""The table of an avatar's measures, and pictures to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lipsync_studio.evaluation import measures
from lipsync_studio.evaluation.patch import Picture
from lipsync_studio.evaluation.recording import Recording

COLUMNS, ROWS = 8, 6  # of a contact sheet: two seconds
PAPER, INK, FAINT = (255, 255, 255), (40, 40, 40), (200, 200, 200)
BLUE, ORANGE = (200, 110, 30), (30, 120, 235)  # BGR


class Line(NamedTuple):
    """A line of the table: what is measured, what must hold ("" if nothing must), and each recording's value."""

    what: str
    wanted: str
    values: list[str]


def _mean(values: Sequence[float] | NDArray[Any]) -> str:
    return f"{np.mean(values):.2f}" if len(values) else "-"


def _lag(measured: measures.Curve, wanted: measures.Curve) -> str:
    r, lag, _ = measures.best_lag(measured, wanted)
    return f"{r:.2f} at {lag:+.1f}"


def speech_lines(recordings: Sequence[Recording]) -> list[Line]:
    """Lips against what the sound asks for."""

    def timed(make, need_truth: bool = False) -> list[str]:
        return [make(r) if r.talk.phones and (r.true_shapes or not need_truth) else "-" for r in recordings]

    def rest(r: Recording, values: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([values[:0], *(values[a:b] for a, b in r.pauses())])

    def closed(r: Recording, truth: bool = False) -> str:
        spans = r.closures()
        return f"{100 * measures.share_reached(r.closed(truth), spans):.0f} of {len(spans)}"

    def compared(name: str, statistic) -> list[str]:
        return timed(lambda r: f"{statistic(np.array(getattr(r, name))[r.speaking()]):.3g}", True)

    def against(name: str, column: int, truth: bool = False):
        return lambda r: _lag(r.curve(name, truth), r.wanted()[column])

    lines = [
        Line("frames", "", [str(len(r.shapes)) for r in recordings]),
        Line("opening (landmarks) / phonemes: r, lag", "0.85 at 0 ± 1", timed(against("opening", 0))),
        Line("the same of the truth pictures", "", timed(against("opening", 0, True), True)),
        Line("gap (colours) / phonemes: r, lag", "0.85 at 0 ± 1", timed(against("gap", 0))),
        Line("the same of the truth pictures", "", timed(against("gap", 0, True), True)),
        Line(
            "opening / the truth pictures' opening: r, lag",
            "",
            timed(lambda r: _lag(r.curve("opening"), r.curve("opening", True)), True),
        ),
        Line("width / phonemes: r, lag", "", timed(against("width", 1))),
        Line("the same of the truth pictures", "", timed(against("width", 1, True), True)),
        Line("p, b, m with closed lips, %", "90", timed(closed)),
        Line("the same of the truth pictures", "", timed(lambda r: closed(r, True), True)),
        Line("all frames with closed lips, %", "", [f"{100 * r.closed().mean():.0f}" for r in recordings]),
        Line(
            "opening / envelope: r, lag",
            "0.6 at 0 ± 1",
            [_lag(r.curve("opening"), r.envelope()) for r in recordings],
        ),
        Line("what the phonemes ask for / envelope: r, lag", "", timed(lambda r: _lag(r.wanted()[0], r.envelope()))),
        Line("gap / envelope: r, lag", "", [_lag(r.curve("gap"), r.envelope()) for r in recordings]),
        Line("pauses > 0.3 s", "", [str(len(r.pauses())) for r in recordings]),
        Line("mean opening in them, % of eyes", "", [_mean(rest(r, r.curve("opening"))) for r in recordings]),
        Line(
            "of their frames with closed lips, %",
            "100",
            [_mean(100 * rest(r, r.closed())) for r in recordings],
        ),
        Line("mean opening, % of eyes", "", [_mean(r.curve("opening")) for r in recordings]),
        Line("95th percentile", "", [f"{np.percentile(r.curve('opening'), 95):.2f}" for r in recordings]),
        Line("mouth PSNR while speaking, dB: mean", "30", compared("psnr", np.mean)),
        Line("its lowest 5 % are below", "", compared("psnr", lambda v: np.percentile(v, 5))),
        Line("mouth SSIM while speaking", "", compared("ssim", np.mean)),
        Line("mouth GMSD while speaking (0 is equal)", "", compared("gmsd", np.mean)),
        Line("trembling against the truth, levels", "", [_mean(r.trembling) for r in recordings]),
    ]
    return [line for line in lines if set(line.values) != {"-"}]


def picture_lines(recordings: Sequence[Recording]) -> list[Line]:
    """The patch in its footage."""

    def most(values: Sequence[float]) -> str:
        return f"{max(values, default=0.0):.2f}"

    return [
        Line("pixels outside the mask that differ, before JPEG", "0", [str(r.watch.outside) for r in recordings]),
        Line("pixels outside the patch that differ, sent frames", "0", [str(r.beyond_patch) for r in recordings]),
        Line("largest change of a pixel between frames, levels", "", [most(r.watch.largest) for r in recordings]),
        Line("largest change of a 16x16 block", "2 in silence", [most(r.watch.seen) for r in recordings]),
        Line("mean change near the mouth", "", [_mean(r.watch.movement) for r in recordings]),
        Line("flicker near the mouth", "", [_mean(r.watch.flicker) for r in recordings]),
        Line("opening, % of eyes: smallest .. largest", "", [_range(r.curve("opening")) for r in recordings]),
        Line("gap, % of eyes: largest", "", [most(r.curve("gap").tolist()) for r in recordings]),
        Line("strongest seam, levels a pixel", "", [most(r.watch.seam) for r in recordings]),
        Line("tint under the edge: mean, levels", "", [_mean(r.watch.tint) for r in recordings]),
        Line("slope across the edge / the footage's", "1", [_ratio(r) for r in recordings]),
    ]


def _range(curve: measures.Curve) -> str:
    return f"{curve.min():.2f} .. {curve.max():.2f}"


def _ratio(r: Recording) -> str:
    out, still = np.mean(r.watch.roughness, axis=0)
    return f"{out / max(still, 1e-6):.2f}"


def write_tables(
    parts: Sequence[tuple[str, Sequence[Recording], list[Line]]], notes: Sequence[str], path: Path, console: Console
) -> None:
    """Print the tables, and write them as Markdown.

    Args:
        parts: title, recordings (the columns) and lines of each table.
        notes: sentences above them.
    """
    text = [*notes, ""]
    for title, recordings, lines in parts:
        heads = ["", "must hold", *(r.talk.name for r in recordings)]
        table = Table(*heads, title=title)
        text += [f"## {title}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for line in lines:
            cells = [line.what, line.wanted, *line.values]
            table.add_row(*cells)
            text.append("| " + " | ".join(cells) + " |")
        text.append("")
        console.print(table)
    path.write_text("\n".join(text))


def write_sheets(recording: Recording, folder: Path) -> None:
    """Write <name>_mouth.png, _overview.png and _curves.png."""
    name = recording.talk.name
    first = _liveliest(recording.curve("opening"), COLUMNS * ROWS)
    cv2.imwrite(str(folder / f"{name}_mouth.png"), mouth_sheet(recording, first))
    rows = [np.hstack(recording.overview[i : i + 4]) for i in range(0, len(recording.overview) // 4 * 4, 4)]
    if rows:
        whole = np.vstack(rows)
        width = 480 * 4
        size = (width, whole.shape[0] * width // whole.shape[1])
        cv2.imwrite(str(folder / f"{name}_overview.png"), cv2.resize(whole, size, interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(folder / f"{name}_curves.png"), curves_sheet(recording))


def _liveliest(opening: measures.Curve, count: int) -> int:
    """The first of `count` frames in which the mouth moves most."""
    if len(opening) <= count:
        return 0
    travelled = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(opening)))])
    return int(np.argmax(travelled[count - 1 :] - travelled[: len(travelled) - count + 1]))


def mouth_sheet(recording: Recording, first: int, rows: int = ROWS) -> Picture:
    """Consecutive mouths from a frame on at full size, the truth below each row where there is one."""
    kinds = [recording.mouths] + ([recording.true_mouths] if recording.true_mouths else [])
    size = np.max([picture.shape[:2] for kind in kinds for picture in kind], axis=0).tolist()
    lines = []
    for begin in range(first, min(first + COLUMNS * rows, len(recording.mouths)), COLUMNS):
        for kind, pictures in enumerate(kinds):
            cells = [
                _cell(p, f"{begin + i}" + " truth" * kind, *size)
                for i, p in enumerate(pictures[begin : begin + COLUMNS])
            ]
            blank = np.full_like(cells[0], 255)
            lines.append(np.hstack(cells + [blank] * (COLUMNS - len(cells))))
    return np.vstack(lines)


def _cell(picture: Picture, label: str, height: int, width: int) -> Picture:
    """With a white rim up to the size of the largest: a person's boxes differ by pixels."""
    rim = height - picture.shape[0], width - picture.shape[1]
    result = cv2.copyMakeBorder(picture, 0, rim[0], 0, rim[1], cv2.BORDER_CONSTANT, value=PAPER)
    cv2.putText(result, label, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, PAPER, 2, cv2.LINE_AA)
    cv2.putText(result, label, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, INK, 1, cv2.LINE_AA)
    return np.asarray(result, np.uint8)


def curves_sheet(recording: Recording) -> Picture:
    """Opening over time (blue) above what was wanted (orange): by the phonemes, else the envelope; 10 s a row."""
    opening = recording.curve("opening")
    asked = recording.wanted()[0] if recording.talk.phones else recording.envelope()
    high = max(float(opening.max()), 1e-6), max(float(asked.max()), 1e-6)
    row, step, height = 250, 6, 120
    lines = []
    for begin in range(0, len(opening), row):
        paper = np.full((height, row * step, 3), 255, np.uint8)
        for frame in range(0, row, 25):
            cv2.line(paper, (frame * step, 0), (frame * step, height), FAINT, 1)
        for curve, top, colour in ((asked, high[1], ORANGE), (opening, high[0], BLUE)):
            part = curve[begin : begin + row]
            y = height - 8 - part / top * (height - 16)
            line = np.stack([np.arange(len(part)) * step, y], 1).round().astype(np.int32)
            cv2.polylines(paper, [line], False, colour, 2, cv2.LINE_AA)
        lines.append(paper)
    return np.vstack(lines)
