"""The page of `evaluate --compare`: one HTML file with its pictures inside, which any browser opens."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from lipsync_mel.timeline import FPS
from lipsync_studio.evaluation.contact_sheets import liveliest
from lipsync_studio.evaluation.figures import SURE, Difference, differences
from lipsync_studio.evaluation.metrics import Curve
from lipsync_studio.evaluation.moments import Moment, moments_of
from lipsync_studio.evaluation.patch_metrics import Picture
from lipsync_studio.evaluation.recording import CurveName, Recording

ROW = 10 * FPS  # frames in a row of curves
STRIP = 24  # consecutive mouths
WIDE = 400  # pixels: a whole frame
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 90]
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1.5rem; max-width: 82rem; color: #222; background: #fff }
h2 { margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem } h3 { margin-bottom: .4rem }
table { border-collapse: collapse } th, td { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } td.better { color: #11691f; font-weight: 600 } td.worse { color: #b3261e; font-weight: 600 }
td.other { font-weight: 600 } .a { color: #1e6ec8 } .b { color: #c2410c } figure { display: inline-block; margin: 0 .35rem .8rem 0; vertical-align: top }
figure img { display: block; margin-bottom: 2px; max-width: 400px } .moments img, .moments figcaption { width: 148px } figcaption { font-size: 12px; color: #555 } svg { display: block; width: 100%; margin: .3rem 0 1rem }
.side { display: inline-block; width: 1.4rem; font-weight: 600 } .strip img { width: 88px; margin: 0 1px 1px 0 } .note { color: #555 }
"""  # noqa: E501


class Side(NamedTuple):
    """One of the two avatars: its name on the page, sentences about it, and its recordings."""

    name: str
    facts: Sequence[str]
    recordings: Sequence[Recording]


def comparison_page(first: Side, second: Side) -> str:
    """The page as HTML.

    Args:
        first, second: with recordings of the same speeches, in the same order.
    """
    title = f"{first.name} and {second.name}"
    pairs = list(zip(first.recordings, second.recordings, strict=True))
    found = [differences(*pair) for pair in pairs]
    body = [
        f"<h1>{_text(title)}</h1>",
        *(
            f"<p><b class={mark.lower()}>{mark}</b> is {_text(side.name)}. {_text(' '.join(side.facts))}</p>"
            for mark, side in (("A", first), ("B", second))
        ),
        _summary(found),
    ]
    for pair, table in zip(pairs, found, strict=True):
        body += [f"<h2>{_text(pair[0].speech.name)}</h2>", _table(table), *_pictures(*pair)]
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title><style>{STYLE}</style>{"".join(body)}</html>'  # noqa: E501


def _summary(found: Sequence[Sequence[Difference]]) -> str:
    every = [one for table in found for one in table]
    beyond = [one for one in every if one.beyond_noise]
    judged = {way: sum(_verdict(one) == way for one in beyond) for way in ("better", "worse")}
    return (
        f"<p>{len(beyond)} of {len(every)} figures differ beyond noise: B is better in {judged['better']} and worse in "
        f"{judged['worse']} of them (green, red); the rest is bold. Noise is what other seconds of the same speech "
        f"could give: the limits enclose {SURE:g} % of the differences of blocks of one second, drawn again and again. "
        "A plain figure is no sign of equality in a short speech.</p>"
    )


def _verdict(one: Difference) -> str:
    if not one.beyond_noise or not one.better:
        return "other" if one.beyond_noise else ""
    return "better" if (one.second > one.first) == (one.better == "higher") else "worse"


def _table(found: Sequence[Difference]) -> str:
    head = "<tr><th>figure<th class=a>A<th class=b>B<th>B - A<th>limits</tr>"
    rows = [
        f"<tr><td>{_text(one.name)}<td>{one.first:.3g}<td>{one.second:.3g}"
        f'<td class="{_verdict(one)}">{one.second - one.first:+.3g}<td>{one.low:+.3g} to {one.high:+.3g}</tr>'
        for one in found
    ]
    return f"<table>{head}{''.join(rows)}</table>"


def _pictures(first: Recording, second: Recording) -> list[str]:
    parts = []
    for group in moments_of(first, second):
        cells = [_moment(first, second, moment) for moment in group.moments]
        parts.append(
            f"<h3>{_text(group.title)}</h3><p class=note>A above, B below.</p><div class=moments>{''.join(cells)}</div>"
        )
    begin = liveliest(first.curve("opening"), STRIP)
    parts.append(f"<h3>{STRIP} consecutive frames from {begin / FPS:.2f} s</h3><div class=strip>")
    for row in range(begin, begin + STRIP, STRIP // 2):
        for mark, recording in (("a", first), ("b", second)):
            images = "".join(_image(mouth) for mouth in recording.mouths[row : row + STRIP // 2])
            parts.append(f'<div><span class="side {mark}">{mark.upper()}</span>{images}</div>')
    parts.append("</div><h3>Curves over time, ten seconds a row</h3>")
    known = bool(first.speech.phones)
    if known:
        opening, width = first.expected()
        parts += [
            _curves("opening", first, second, opening, "phonemes"),
            _curves("width", first, second, width, "phonemes"),
        ]
    else:
        parts.append(_curves("opening", first, second, first.envelope(), "envelope of the sound"))
    for mark, recording in (("A", first), ("B", second)):
        wholes = recording.overview[:: max(len(recording.overview) // 3, 1)][:3]
        parts += [f"<h3>Whole frames of {mark}</h3>", *(f"<figure>{_image(_small(p))}</figure>" for p in wholes)]
    return parts


def _moment(first: Recording, second: Recording, moment: Moment) -> str:
    """Two mouths, and below them the phoneme, the time and both openings."""
    images = [_image(r.mouths[frame]) for r, frame in ((first, moment.first), (second, moment.second))]
    a, b = first.shapes[moment.first], second.shapes[moment.second]
    label = f"{moment.label} " if moment.label else ""
    caption = f"{_text(label)}{moment.first / FPS:.2f} s: {max(a.opening, 0):.1f} and {max(b.opening, 0):.1f} % open"
    return f"<figure>{''.join(images)}<figcaption>{caption}</figcaption></figure>"


def _curves(name: CurveName, a: Recording, b: Recording, expected: Curve, of: str) -> str:
    """Both curves on one scale, and what is expected (grey) stretched to it."""
    curves = [(a.curve(name), "#1e6ec8"), (b.curve(name), "#c2410c")]
    low = min(float(curve.min()) for curve, _ in curves)
    high = max(max(float(curve.max()) for curve, _ in curves), low + 1e-6)
    grey = low + (expected - expected.min()) / max(float(np.ptp(expected)), 1e-9) * (high - low)
    note = f"{name.capitalize()}: <span class=a>A</span>, <span class=b>B</span>, and grey, from the {of}, what is expected; {low:.1f} to {high:.1f} % of the eyes' distance."  # noqa: E501
    rows = [f"<p class=note>{note}</p>"]
    for begin in range(0, len(curves[0][0]), ROW):
        lines = [_line(curve[begin : begin + ROW], low, high, ink) for curve, ink in ((grey, "#bbb"), *curves)]
        ticks = "".join(f'<path d="M{x * 4} 0V120" stroke="#eee"/>' for x in range(0, ROW + 1, FPS))
        rows.append(f'<svg viewBox="0 0 {ROW * 4} 124">{ticks}{"".join(lines)}</svg>')
    return "".join(rows)


def _line(curve: Curve, low: float, high: float, ink: str) -> str:
    points = " ".join(f"{4 * i},{120 - 116 * (value - low) / (high - low):.1f}" for i, value in enumerate(curve))
    return f'<polyline points="{points}" fill="none" stroke="{ink}" stroke-width="1.8"/>'


def _small(picture: Picture) -> Picture:
    size = (WIDE, picture.shape[0] * WIDE // picture.shape[1])
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _image(picture: Picture) -> str:
    jpeg = cv2.imencode(".jpg", picture, QUALITY)[1].tobytes()
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'


def _text(text: str) -> str:
    return html.escape(text)
