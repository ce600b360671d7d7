"""Compares what an avatar with a head draws with what its network draws in FP32, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from lipsync_client.console import notes
from lipsync_composite.loop import footage_index
from lipsync_composite.segments import Rect
from lipsync_mel.timeline import MAX_FRAMES
from lipsync_server.pipeline import SILENCE_AFTER, LocalPipeline
from lipsync_studio.distillation.teacher import Shown, Teacher
from lipsync_studio.evaluation import metrics
from lipsync_studio.evaluation.contact_sheets import SHEET_WIDTHS
from lipsync_studio.evaluation.metric_tables import MetricTable, Row
from lipsync_studio.evaluation.mouth_meter import MouthMeter, MouthShape
from lipsync_studio.evaluation.patch_metrics import Footage, PatchMetrics, Picture, mouth_square
from lipsync_studio.evaluation.recording import CurveName, RenderedSpeech

LEAST_DB = 40.0  # of the picture in the mask
MOST_SHAPE = 1.0  # percent of the eyes' distance: mean difference of the opening, and of the width
STILL = (
    3.0  # levels: the change of a 16x16 block between frames that INT8 leaves in the demo's whole network (FP32: 1.9)
)


class Pair(NamedTuple):
    """One frame of both: around the mouth, pasted into the footage."""

    teacher: Picture
    turbo: Picture


@dataclass
class Comparison:
    """A speech drawn by both. Lists have one entry for each frame."""

    speech: RenderedSpeech
    spoken: bool  # else it is silence
    first: int  # frame from which on it counts
    teacher_patch: PatchMetrics
    turbo_patch: PatchMetrics
    squares: list[float] = field(default_factory=list)  # mean square error where the picture is shown, levels
    teacher_shapes: list[MouthShape] = field(default_factory=list)
    turbo_shapes: list[MouthShape] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)  # empty if they were not asked for

    def psnr(self) -> float:
        """Of all frames together, dB."""
        return _db(float(np.mean(self.squares)))

    def worst_psnr(self) -> float:
        """Of the worst frame, dB."""
        return _db(max(self.squares))

    def curves(self, name: CurveName) -> tuple[metrics.Curve, metrics.Curve]:
        """One value of the mouth shape over time: the teacher's, and the head's."""
        teacher, turbo = (
            np.array([getattr(shape, name) for shape in shapes]) for shapes in (self.teacher_shapes, self.turbo_shapes)
        )
        return teacher, turbo

    def difference(self, name: CurveName) -> float:
        """Mean absolute difference of a mouth measure, percent of the eyes' distance."""
        teacher, turbo = self.curves(name)
        return float(np.abs(teacher - turbo).mean())

    def failures(self) -> list[str]:
        """A sentence for each bound that is not kept."""
        name, found = self.speech.name, []
        if not self.spoken:
            still, allowed = max(self.turbo_patch.largest_block), max(STILL, *self.teacher_patch.largest_block)
            if still > allowed:
                found.append(f"{name}: a block changes by {still:.2f} levels between frames, at most {allowed:.2f} may")
            return found
        if self.psnr() < LEAST_DB:
            found.append(f"{name}: the mouth is {self.psnr():.1f} dB from the network's, at least {LEAST_DB:g} must be")
        for measure in ("opening", "width"):
            if (difference := self.difference(measure)) > MOST_SHAPE:
                found.append(
                    f"{name}: the mouth's {measure} is {difference:.2f} % of the eyes' distance from the network's, at "
                    f"most {MOST_SHAPE:g} % may be"
                )
        return found


class Comparer:
    """Draws speeches with both.

    Args:
        pipeline: the avatar, packed with the head.
        teacher: its network in FP32.
        crops: UINT8 [n,320,320,3], the footage's face crops.
        region: where pictures are shown.
        footage, meter: of the packed avatar.
    """

    def __init__(
        self,
        pipeline: LocalPipeline,
        teacher: Teacher,
        crops: NDArray[np.uint8],
        region: Shown,
        footage: Footage,
        meter: MouthMeter,
    ) -> None:
        self._pipeline, self._teacher, self._crops, self._region = pipeline, teacher, crops, region
        self._footage, self._meter = footage, meter

    def compare(self, speech: RenderedSpeech, spoken: bool, first: int = 0, keep: bool = False) -> Comparison:
        """Draw a speech with both.

        Args:
            spoken: it is no silence.
            first: the frame from which on it counts.
            keep: the pairs of pictures.
        """
        teacher, turbo = (PatchMetrics(self._footage, self._meter.lips) for _ in range(2))
        result = Comparison(speech, spoken, first, teacher, turbo)
        total = speech.frames
        drawn = zip(self._pipeline.mouths(speech.audio), self._features(speech), strict=True)
        for number, ((position, picture), audio) in enumerate(
            track(drawn, speech.name, total, transient=True, console=notes)
        ):
            if number < first:
                continue
            facts = self._footage.facts
            crop = self._crops[footage_index(position, facts.frames, facts.loop)]
            levels = (self._teacher.output(crop, audio) * np.float32(255)).astype(np.uint8)
            self._add(result, position, levels.transpose(1, 2, 0), picture, keep)
        return result

    def _features(self, speech: RenderedSpeech) -> Iterator[NDArray[np.float32]]:
        whole = np.concatenate([speech.audio, SILENCE_AFTER])
        for first in range(0, speech.frames, MAX_FRAMES):
            yield from self._pipeline.features(whole, first, min(MAX_FRAMES, speech.frames - first))

    def _add(self, result: Comparison, position: int, teacher: Picture, turbo: Picture, keep: bool) -> None:
        error = (turbo.astype(np.float32) - teacher)[self._region.window][self._region.inner]
        result.squares.append(float(np.square(error).mean()))
        box, frames = self._footage.box(position), []
        for picture, patch, shapes in (
            (teacher, result.teacher_patch, result.teacher_shapes),
            (turbo, result.turbo_patch, result.turbo_shapes),
        ):
            rect, pasted = self._pipeline.avatar.composited(position, picture)
            patch.add(position, rect, pasted)
            frame = self._footage.frame(position).copy()
            rect.of(frame)[:] = pasted
            shapes.append(self._meter.measure(frame, box))
            frames.append(frame)
        if keep:
            whole = Rect(0, 0, frames[0].shape[1], frames[0].shape[0])
            square = mouth_square(box, self._meter.lips, whole, SHEET_WIDTHS)
            result.pairs.append(Pair(*(np.array(square.of(frame), np.uint8) for frame in frames)))


def comparison_table(comparisons: Sequence[Comparison]) -> MetricTable:
    """The figures, one column for each speech."""

    def shape(name: CurveName) -> Row:
        required = f"{MOST_SHAPE:g} in speech" if name != "gap" else ""
        values = [f"{c.difference(name):.3f}" for c in comparisons]
        return Row(f"mean difference of the {name}, % of eyes", required, values)

    def still(patches: Sequence[PatchMetrics], required: str, whose: str) -> Row:
        return Row(
            f"largest change of a 16x16 block, {whose}", required, [f"{max(p.largest_block):.2f}" for p in patches]
        )

    rows = [
        Row("frames", "", [str(len(c.squares)) for c in comparisons]),
        Row("PSNR in the mask, dB", f"{LEAST_DB:g} in speech", [f"{c.psnr():.2f}" for c in comparisons]),
        Row("that of the worst frame", "", [f"{c.worst_psnr():.2f}" for c in comparisons]),
        *(shape(name) for name in ("opening", "width", "gap")),
        Row("opening / the network's: r", "", [_r(c) for c in comparisons]),
        still([c.turbo_patch for c in comparisons], f"{STILL:g} in silence, or the network's", "turbo"),
        still([c.teacher_patch for c in comparisons], "", "the network"),
        Row("flicker near the mouth / the network's", "", [_flicker(c) for c in comparisons]),
    ]
    return MetricTable("Turbo and the network in FP32", [c.speech.name for c in comparisons], rows)


def _db(square: float) -> float:
    return float(10 * np.log10(255**2 / max(square, 1e-6)))


def _r(comparison: Comparison) -> str:
    return f"{metrics.best_lag(*comparison.curves('opening'), reach=0)[0]:.4f}" if comparison.spoken else "-"


def _flicker(comparison: Comparison) -> str:
    turbo, teacher = (float(np.mean(p.flicker)) for p in (comparison.turbo_patch, comparison.teacher_patch))
    return f"{turbo:.2f} / {teacher:.2f}"
