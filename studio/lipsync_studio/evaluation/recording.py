"""One speech spoken by an avatar, frame by frame: what was seen, and what it should have been."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from lipsync_composite.loop import footage_index
from lipsync_composite.splice import Rect
from lipsync_mel.timeline import SAMPLE_RATE, frame_total
from lipsync_server.pipeline import LocalPipeline
from lipsync_studio.corpus.mouth_curves import MOUTH, mouth_curves
from lipsync_studio.evaluation import measures
from lipsync_studio.evaluation.mouth import MouthMeter, MouthShape
from lipsync_studio.evaluation.patch import Footage, PatchWatch, Picture, decode, mouth_square

Truth = Callable[[int, NDArray[np.float32]], Picture]  # footage frame, curves [7] -> face crop, BGR [320,320,3]
LIPS_CLOSE = {"p", "b", "m"}
CLOSED = 1.5  # percent of the eyes' distance: a smaller opening is none
SHEET = 1.9  # mouth widths that a contact sheet's picture shows


@dataclass(frozen=True)
class Talk:
    """What is said: FP32 samples at 16 kHz, and, where known, phonemes with their end times in seconds."""

    name: str
    audio: NDArray[np.float32]
    phones: tuple[tuple[str, float], ...] = ()

    @property
    def frames(self) -> int:
        return frame_total(len(self.audio))

    def curves(self) -> NDArray[np.float32]:
        """What the phonemes ask of the mouth, [frames,7], see `mouth_curves.MOUTH`."""
        return mouth_curves(self.phones, self.audio, self.frames)[0]


@dataclass
class Recording:
    """What came out. Lists have one entry for each frame."""

    talk: Talk
    watch: PatchWatch
    shapes: list[MouthShape] = field(default_factory=list)
    mouths: list[Picture] = field(default_factory=list)  # from the sent frames, full size
    overview: list[Picture] = field(default_factory=list)  # some whole frames
    true_shapes: list[MouthShape] = field(default_factory=list)  # of the truth pasted in the same way
    true_mouths: list[Picture] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    gmsd: list[float] = field(default_factory=list)
    errors: list[NDArray[np.float32]] = field(default_factory=list)  # the last three pictures less the truth
    trembling: list[float] = field(default_factory=list)  # mean |second difference| of the error
    beyond_patch: int = 0  # pixels of the sent frames outside the patch that differ from the plain frame's

    def curve(self, name: str, truth: bool = False) -> measures.Curve:
        """`opening`, `width` or `gap` over time."""
        return np.array([getattr(shape, name) for shape in (self.true_shapes if truth else self.shapes)])

    def closed(self, truth: bool = False) -> NDArray[np.bool_]:
        """Where the lips are closed: neither landmarks nor colours show an opening.

        Landmarks miss a small opening of a drawn mouth, colours miss one of a small or dim picture of a person.
        """
        return np.maximum(self.curve("opening", truth), self.curve("gap", truth)) < CLOSED

    def wanted(self) -> tuple[measures.Curve, measures.Curve]:
        """What the phonemes ask for: opening (none where lips are pressed), and width (spread less rounded)."""
        open_, wide, round_, press = (self.talk.curves()[:, MOUTH.index(n)] for n in ("open", "wide", "round", "press"))
        return (open_ * (1 - press)).astype(np.float64), (wide - round_).astype(np.float64)

    def envelope(self) -> measures.Curve:
        return measures.envelope(self.talk.audio, len(self.shapes))

    def pauses(self) -> list[measures.Span]:
        """Pauses longer than 0.3 s without their ends: by the phonemes where known, else by the level."""
        if not self.talk.phones:
            return measures.pauses(self.talk.audio, len(self.shapes))
        silent = np.zeros(len(self.shapes), bool)
        for first, stop in measures.phone_spans(self.talk.phones, {"pau"}, len(silent)):
            silent[first:stop] = True
        return measures.long_runs(silent)

    def speaking(self) -> NDArray[np.bool_]:
        """Where a phoneme is spoken: a mouth at rest is easy to draw."""
        flags = np.zeros(len(self.shapes), bool)
        for first, stop in measures.phone_spans(
            self.talk.phones, {n for n, _ in self.talk.phones} - {"pau"}, len(flags)
        ):
            flags[first:stop] = True
        return flags

    def closures(self) -> list[measures.Span]:
        """The spans of p, b and m."""
        return measures.phone_spans(self.talk.phones, LIPS_CLOSE, len(self.shapes))


class Studio:
    """Records talks with one avatar."""

    def __init__(self, pipeline: LocalPipeline, footage: Footage, meter: MouthMeter, truth: Truth | None) -> None:
        self._pipeline, self._footage, self._meter, self._truth = pipeline, footage, meter, truth

    def record(self, talk: Talk) -> Recording:
        """Let the avatar speak, and look at every frame."""
        result = Recording(talk, PatchWatch(self._footage, self._meter.lips))
        total = talk.frames
        curves = talk.curves() if talk.phones and self._truth else None
        frames = track(self._pipeline.render(talk.audio), talk.name, total, transient=True)
        for number, (position, mouth, jpeg) in enumerate(frames):
            sent = decode(jpeg)
            patch, picture = self._pipeline.avatar.composited(position, mouth)
            result.watch.add(position, patch, picture)
            result.beyond_patch += self._changed_beyond(patch, sent, position)
            result.shapes.append(self._meter.measure(sent, self._footage.box(position)))
            result.mouths.append(self._part(sent, position))
            if number % max(total // 12, 1) == total // 24:
                result.overview.append(sent)
            if curves is not None:
                self._compare(result, position, patch, picture, curves[number])
        return result

    def _changed_beyond(self, patch: Rect, sent: Picture, position: int) -> int:
        """Pixels of a sent frame that differ from the plain one's although they are not in the patch."""
        different = sent != self._footage.frame(position)
        near = 2  # pixels: decoders smooth colour across the borders of blocks
        top, left = max(patch.y - near, 0), max(patch.x - near, 0)
        different[top : patch.y + patch.height + near, left : patch.x + patch.width + near] = False
        return int(different.any(axis=2).sum()) if different.any() else 0  # the first is ten times as dear

    def _pasted(self, position: int, patch: Rect, picture: Picture) -> Picture:
        frame = self._footage.frame(position).copy()
        patch.of(frame)[:] = picture
        return frame

    def _part(self, sent: Picture, position: int) -> Picture:
        whole = Rect(0, 0, sent.shape[1], sent.shape[0])
        return mouth_square(self._footage.box(position), self._meter.lips, whole, SHEET).of(sent).copy()

    def _compare(
        self, result: Recording, position: int, patch: Rect, picture: Picture, curves: NDArray[np.float32]
    ) -> None:
        assert self._truth is not None
        facts = self._footage.facts
        true = self._truth(footage_index(position, facts.frames, facts.loop), curves)
        square = mouth_square(self._footage.box(position), self._meter.lips)
        a, b = (
            square.of(self._pasted(position, *pasted))
            for pasted in ((patch, picture), self._pipeline.avatar.composited(position, true))
        )
        result.psnr.append(measures.psnr(a, b))
        result.ssim.append(measures.ssim(a, b))
        result.gmsd.append(measures.gmsd(a, b))
        result.errors = [*result.errors[-2:], a.astype(np.float32) - b]
        if len(result.errors) == 3:
            e = result.errors
            result.trembling.append(float(np.abs(e[2] - 2 * e[1] + e[0]).mean()))
        sent = decode(self._pipeline.avatar.render(position, true))
        result.true_shapes.append(self._meter.measure(sent, self._footage.box(position)))
        result.true_mouths.append(self._part(sent, position))


def joined(name: str, talks: Sequence[Talk], before: float = 0.2, after: float = 0.4) -> Talk:
    """Several talks with known phonemes as one, with digital silence (seconds) around each."""
    audio, phones, now = [], [], 0.0
    for talk in talks:
        lead, tail = (np.zeros(round(seconds * SAMPLE_RATE), np.float32) for seconds in (before, after))
        piece = np.concatenate([lead, talk.audio, tail])
        phones.append(("pau", now + before))
        phones += [(phone, now + before + end) for phone, end in talk.phones]
        now += len(piece) / SAMPLE_RATE
        phones.append(("pau", now))
        audio.append(piece)
    return Talk(name, np.concatenate(audio), tuple(phones))
