"""Tables of metrics: one column for each recording, one row for each metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from lipsync_studio.evaluation import metrics
from lipsync_studio.evaluation.recording import CurveName, Recording

Cell = Callable[[Recording], str]
Values = Sequence[float] | NDArray[Any]
WIDTHS = {  # from round to wide; by flite's names of the phonemes
    "uw": "uw (oo)",
    "w": "w",
    "ow": "ow",
    "ao": "ao",
    "r": "r",
    "pau": "pauses",
    "aa": "aa",
    "ae": "ae",
    "ey": "ey",
    "iy": "iy (ee)",
}


class Row(NamedTuple):
    """A row of the table: the metric, what must hold ("" if nothing must), and each recording's value."""

    metric: str
    required: str
    values: list[str]


def speech_rows(recordings: Sequence[Recording]) -> list[Row]:
    """The lips against phonemes and envelope. Rows without any value are left out."""
    rows = [*_curve_rows(recordings), *_pause_rows(recordings), *_truth_rows(recordings), *_film_rows(recordings)]
    return [row for row in rows if set(row.values) != {"-"}]


def phoneme_rows(recordings: Sequence[Recording]) -> list[Row]:
    """The mouth's width in rounded and in spread sounds, and at rest. Rows without any value are left out."""
    rows = []
    for name, label in WIDTHS.items():
        for truth in (False, True):
            cell = _width_in(name, truth)
            metric = "the same of the truth pictures" if truth else f"width in {label}, % of eyes (number)"
            rows.append(Row(metric, "", [(_truth(cell) if truth else cell)(r) for r in recordings]))
    return [row for row in rows if set(row.values) != {"-"}]


def _width_in(name: str, truth: bool) -> Cell:
    def cell(r: Recording) -> str:
        widths = r.width_in(name, truth)
        return f"{widths.mean():.1f} ({len(widths)})" if len(widths) else "-"

    return cell


def published_rows(recordings: Sequence[Recording]) -> list[Row]:
    """Metrics that other systems publish, see docs/evaluation.md. Rows without any value are left out."""

    def row(metric: str, value: str, cell: Cell) -> Row:
        return Row(metric, value, [cell(r) for r in recordings])

    rows = [
        row("THEval Lip-Sync", "people 0.253", lambda r: _known(r.lip_sync(), np.mean)),
        row("the same of the filmed person", "", _film(lambda r: _known(r.lip_sync(film=True), np.mean))),
        row("THEval Silent Lip Stability", "people 0.026", lambda r: _known(r.silent_movement(), np.median)),
        row("the same of the filmed person", "", _film(lambda r: _known(r.silent_movement(film=True), np.median))),
        row("LMD against the truth, % of eyes", "", lambda r: _known(r.landmark_distances(), np.mean)),
        row("CPBD of the face (1 is sharp)", "", lambda r: _known(np.array(r.sharpness), np.mean)),
        row("the same of the plain footage", "", lambda r: _known(np.array(r.plain_sharpness), np.mean)),
    ]
    return [row for row in rows if set(row.values) != {"-"}]


def _film_rows(recordings: Sequence[Recording]) -> list[Row]:
    def against(name: CurveName) -> Cell:
        return _film(lambda r: _lag(r.curve(name), r.filmed(name)))

    def row(metric: str, required: str, cell: Cell) -> Row:
        return Row(metric, required, [cell(r) for r in recordings])

    return [
        row("opening / the filmed person's: r, lag", "0.85 at 0 ± 1", against("opening")),
        row("range of the opening, % of theirs", "85", _film(_range_share)),
        row("width / the filmed person's: r, lag", "0.6", against("width")),
    ]


def _film(cell: Cell) -> Cell:
    """`cell` where the person who spoke was filmed."""
    return lambda r: cell(r) if r.speech.film else "-"


def _range_share(r: Recording) -> str:
    """The openings' 95th percentile above their 5th, relative to the person's: single frames do not count."""
    ours, theirs = (np.ptp(np.percentile(c, (5, 95))) for c in (r.curve("opening"), r.filmed("opening")))
    return f"{100 * ours / max(theirs, 1e-9):.0f}"


def _known(values: metrics.Curve, statistic: Callable[[NDArray[Any]], Any]) -> str:
    """A statistic of the values that are not nan."""
    known = values[np.isfinite(values)]
    return f"{statistic(known):.3g}" if len(known) else "-"


def _curve_rows(recordings: Sequence[Recording]) -> list[Row]:
    def row(metric: str, required: str, cell: Cell) -> Row:
        return Row(metric, required, [cell(r) for r in recordings])

    return [
        row("frames", "", lambda r: str(len(r.shapes))),
        row("opening (landmarks) / phonemes: r, lag", "0.85 at 0 ± 1", _phonemes(_against("opening", 0))),
        row("the same of the truth pictures", "", _truth(_against("opening", 0, True))),
        row("gap (colours) / phonemes: r, lag", "0.85 at 0 ± 1", _phonemes(_against("gap", 0))),
        row("the same of the truth pictures", "", _truth(_against("gap", 0, True))),
        row(
            "opening / the truth pictures' opening: r, lag",
            "",
            _truth(lambda r: _lag(r.curve("opening"), r.curve("opening", True))),
        ),
        row("width / phonemes: r, lag", "", _phonemes(_against("width", 1))),
        row("the same of the truth pictures", "", _truth(_against("width", 1, True))),
        row("p, b, m with closed lips, %", "90", _phonemes(_closures)),
        row("the same of the truth pictures", "", _truth(lambda r: _closures(r, True))),
        row("opened or closed at once, % of frames", "", lambda r: _sudden(r.curve("opening"))),
        row("the same of the truth pictures", "", _truth(lambda r: _sudden(r.curve("opening", True)))),
        row("contrast between the lips: closing, opening", "", lambda r: _contrast(r)),
        row("the same of the truth pictures", "", _truth(lambda r: _contrast(r, True))),
        row("all frames with closed lips, %", "", lambda r: f"{100 * r.closed().mean():.0f}"),
        row("opening / envelope: r, lag", "0.6 at 0 ± 1", lambda r: _lag(r.curve("opening"), r.envelope())),
        row("phonemes' opening / envelope: r, lag", "", _phonemes(lambda r: _lag(r.expected()[0], r.envelope()))),
        row("gap / envelope: r, lag", "", lambda r: _lag(r.curve("gap"), r.envelope())),
    ]


def _pause_rows(recordings: Sequence[Recording]) -> list[Row]:
    def in_pauses(r: Recording, values: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([values[:0], *(values[a:b] for a, b in r.pauses())])

    return [
        Row("pauses > 0.3 s", "", [str(len(r.pauses())) for r in recordings]),
        Row("mean opening in them, % of eyes", "", [_mean(in_pauses(r, r.curve("opening"))) for r in recordings]),
        Row(
            "of their frames with closed lips, %",
            "100",
            [_mean(100 * in_pauses(r, r.closed())) for r in recordings],
        ),
        Row("mean opening, % of eyes", "", [_mean(r.curve("opening")) for r in recordings]),
        Row("95th percentile", "", [f"{np.percentile(r.curve('opening'), 95):.2f}" for r in recordings]),
    ]


def _truth_rows(recordings: Sequence[Recording]) -> list[Row]:
    def compared(values: Callable[[Recording], list[float]], statistic: Callable[[NDArray[Any]], Any]) -> list[str]:
        cell = _truth(lambda r: f"{statistic(np.array(values(r))[r.speaking()]):.3g}")
        return [cell(r) for r in recordings]

    return [
        Row("mouth PSNR while speaking, dB: mean", "30", compared(lambda r: r.psnr, np.mean)),
        Row("its 5th percentile", "", compared(lambda r: r.psnr, lambda values: np.percentile(values, 5))),
        Row("mouth SSIM while speaking", "", compared(lambda r: r.ssim, np.mean)),
        Row("mouth GMSD while speaking (0 is equal)", "", compared(lambda r: r.gmsd, np.mean)),
        Row("trembling against the truth, levels", "", [_mean(r.trembling) for r in recordings]),
    ]


def picture_rows(recordings: Sequence[Recording]) -> list[Row]:
    """The patch in its footage."""

    def most(values: Sequence[float]) -> str:
        return f"{max(values, default=0.0):.2f}"

    return [
        Row("pixels outside the mask that differ, before JPEG", "0", [str(r.patch.outside) for r in recordings]),
        Row("pixels outside the patch that differ, sent frames", "0", [str(r.beyond_patch) for r in recordings]),
        Row("largest change of a pixel between frames, levels", "", [most(r.patch.largest) for r in recordings]),
        Row("largest change of a 16x16 block", "2 in silence", [most(r.patch.largest_block) for r in recordings]),
        Row("mean change near the mouth", "", [_mean(r.patch.movement) for r in recordings]),
        Row("flicker near the mouth", "", [_mean(r.patch.flicker) for r in recordings]),
        Row("opening, % of eyes: smallest .. largest", "", [_range(r.curve("opening")) for r in recordings]),
        Row("gap, % of eyes: largest", "", [most(r.curve("gap").tolist()) for r in recordings]),
        Row("strongest seam, levels a pixel", "", [most(r.patch.seam) for r in recordings]),
        Row("tint under the edge: mean, levels", "", [_mean(r.patch.tint) for r in recordings]),
        Row("slope across the edge / the footage's", "1", [_slope_ratio(r) for r in recordings]),
    ]


def _phonemes(cell: Cell) -> Cell:
    """`cell` where phonemes are known. Of a sound without speech it is known that it has none: there is no curve."""
    return lambda r: cell(r) if {name for name, _ in r.speech.phones} - {"pau"} else "-"


def _truth(cell: Cell) -> Cell:
    """`cell` where the truth is known."""
    return lambda r: cell(r) if r.speech.phones and r.true_shapes else "-"


def _against(name: CurveName, column: int, truth: bool = False) -> Cell:
    """Correlation and lag of a curve with a column of what the phonemes expect."""
    return lambda r: _lag(r.curve(name, truth), r.expected()[column])


def _closures(r: Recording, truth: bool = False) -> str:
    spans = r.closures()
    return f"{100 * metrics.share_reached(r.closed(truth), spans):.0f} of {len(spans)}" if spans else "-"


def _sudden(opening: metrics.Curve) -> str:
    return f"{100 * metrics.sudden(opening).mean():.1f}"


def _contrast(r: Recording, truth: bool = False) -> str:
    closing, opening = r.closing_contrast(truth), r.opening_contrast(truth)
    return f"{_known(closing, np.mean)}, {_known(opening, np.mean)}" if np.isfinite(closing).any() else "-"


def _lag(measured: metrics.Curve, expected: metrics.Curve) -> str:
    r, lag, _ = metrics.best_lag(measured, expected)
    return f"{r:.2f} at {lag:+.1f}"


def _mean(values: Values) -> str:
    return f"{np.mean(values):.2f}" if len(values) else "-"


def _range(curve: metrics.Curve) -> str:
    return f"{curve.min():.2f} .. {curve.max():.2f}"


def _slope_ratio(r: Recording) -> str:
    frame, still = np.mean(r.patch.edge_slopes, axis=0)
    return f"{frame / max(still, 1e-6):.2f}"


class MetricTable(NamedTuple):
    """One table: its title, the recordings' names (the columns of values) and its rows."""

    title: str
    recordings: list[str]
    rows: list[Row]

    def cells(self) -> list[list[str]]:
        """The head and the rows."""
        return [["", "must hold", *self.recordings], *([row.metric, row.required, *row.values] for row in self.rows)]


def as_markdown(tables: Sequence[MetricTable], sentences: Sequence[str]) -> str:
    """The sentences, and the tables below them."""
    text = [*sentences, ""]
    for table in tables:
        head, *rows = ("| " + " | ".join(cells) + " |" for cells in table.cells())
        text += [f"## {table.title}", "", head, "|---" * len(table.cells()[0]) + "|", *rows, ""]
    return "\n".join(text)


def for_terminal(table: MetricTable) -> Table:
    head, *rows = table.cells()
    shown = Table(*head, title=table.title)
    for row in rows:
        shown.add_row(*row)
    return shown
