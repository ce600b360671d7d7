"""One speech rendered by an avatar: measurements of each frame, and of the truth where it is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lipsync_mel.timeline import FPS, SAMPLE_RATE, frame_total
from lipsync_studio.corpus.mouth_curves import MOUTH, Phone, mouth_curves
from lipsync_studio.evaluation import metrics, teeth, theval, voice_activity
from lipsync_studio.evaluation.mouth_meter import MouthShape
from lipsync_studio.evaluation.patch_metrics import PatchMetrics, Picture
from lipsync_studio.faces.landmarks import Points

Truth = Callable[[int, NDArray[np.float32]], Picture]  # footage frame, curves [7] -> face crop, BGR [320,320,3]
CurveName = Literal["opening", "width", "gap"]
LIPS_CLOSE = {"p", "b", "m"}
CLOSED = 1.5  # percent of the eyes' distance: a smaller opening counts as closed


@dataclass(frozen=True)
class Mouths:
    """The mouth in consecutive frames. Lists have one entry for each frame."""

    shapes: list[MouthShape] = field(default_factory=list)
    lip_openings: list[float] = field(default_factory=list)  # see `theval.lip_opening`
    landmarks: list[Points] = field(default_factory=list)  # see `theval.mouth_landmarks`


@dataclass(frozen=True)
class RenderedSpeech:
    """A speech to render: FP32 samples at 16 kHz, and phonemes with their end times in seconds where they are known.

    `film` is the mouth of the person who was filmed with this sound, if there was one.
    """

    name: str
    audio: NDArray[np.float32]
    phones: tuple[Phone, ...] = ()
    film: Mouths | None = None

    @property
    def frames(self) -> int:
        """Number of video frames."""
        return frame_total(len(self.audio))

    def curves(self) -> NDArray[np.float32]:
        """The mouth curves of the phonemes, [frames,7], see `mouth_curves.MOUTH`."""
        return mouth_curves(self.phones, self.audio, self.frames)[0]


@dataclass(frozen=True)
class Comparison:
    """A frame's mouth compared with the truth, which was pasted and encoded in the same way."""

    psnr: float
    ssim: float
    gmsd: float
    error: NDArray[np.float32]  # around the mouth, BGR: the frame minus the truth
    true_shape: MouthShape
    true_teeth: float  # see `teeth.teeth_contrast`
    true_landmarks: Points  # see `theval.mouth_landmarks`
    true_mouth: Picture  # from the encoded frame


@dataclass
class Recording:
    """The measurements of a rendered speech. Lists have one entry for each frame unless stated otherwise."""

    speech: RenderedSpeech
    patch: PatchMetrics
    shapes: list[MouthShape] = field(default_factory=list)
    lip_openings: list[float] = field(default_factory=list)  # see `theval.lip_opening`
    landmarks: list[Points] = field(default_factory=list)  # see `theval.mouth_landmarks`
    teeth: list[float] = field(default_factory=list)  # see `teeth.teeth_contrast`
    sharpness: list[float] = field(default_factory=list)  # CPBD of the face; nan in frames that were left out
    plain_sharpness: list[float] = field(default_factory=list)  # the same of the plain footage
    mouths: list[Picture] = field(default_factory=list)  # from the sent frames, full size
    overview: list[Picture] = field(default_factory=list)  # about twelve whole frames
    true_shapes: list[MouthShape] = field(default_factory=list)
    true_landmarks: list[Points] = field(default_factory=list)
    true_teeth: list[float] = field(default_factory=list)
    true_mouths: list[Picture] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    gmsd: list[float] = field(default_factory=list)
    trembling: list[float] = field(
        default_factory=list
    )  # from the third frame on: mean |second difference| of the error
    beyond_patch: int = 0  # pixels of the sent frames outside the patch that differ from the plain frame's
    _errors: list[NDArray[np.float32]] = field(default_factory=list)  # of the last frames

    def add_comparison(self, comparison: Comparison) -> None:
        """Add the next frame's comparison with the truth."""
        self.psnr.append(comparison.psnr)
        self.ssim.append(comparison.ssim)
        self.gmsd.append(comparison.gmsd)
        self.true_shapes.append(comparison.true_shape)
        self.true_landmarks.append(comparison.true_landmarks)
        self.true_teeth.append(comparison.true_teeth)
        self.true_mouths.append(comparison.true_mouth)
        self._errors = [*self._errors[-2:], comparison.error]
        if len(self._errors) == 3:
            first, second, third = self._errors
            self.trembling.append(float(np.abs(third - 2 * second + first).mean()))

    def curve(self, name: CurveName, truth: bool = False) -> metrics.Curve:
        """One value of the mouth shape over time."""
        return np.array([getattr(shape, name) for shape in (self.true_shapes if truth else self.shapes)])

    def filmed(self, name: CurveName) -> metrics.Curve:
        """One value of the filmed person's mouth shape over time; empty if nobody was filmed."""
        return np.array([getattr(shape, name) for shape in (self.speech.film.shapes if self.speech.film else ())])

    def closed(self, truth: bool = False) -> NDArray[np.bool_]:
        """Frames with closed lips: neither landmarks nor colours show an opening.

        Landmarks miss a small opening of a rendered mouth. Colours miss one of a small or dim picture of a person.
        """
        return np.maximum(self.curve("opening", truth), self.curve("gap", truth)) < CLOSED

    def expected(self) -> tuple[metrics.Curve, metrics.Curve]:
        """The phonemes' opening (0 where lips are pressed) and width (spread minus rounded), [frames] each."""
        curves = self.speech.curves()
        opening, wide, rounded, press = (curves[:, MOUTH.index(n)] for n in ("open", "wide", "round", "press"))
        return (opening * (1 - press)).astype(np.float64), (wide - rounded).astype(np.float64)

    def envelope(self) -> metrics.Curve:
        """The speech envelope."""
        return metrics.envelope(self.speech.audio, len(self.shapes))

    @cached_property
    def voiced(self) -> NDArray[np.bool_]:
        """Frames with speech, by a voice activity detector."""
        return voice_activity.speech_flags(self.speech.audio, len(self.shapes))

    def lip_sync(self, film: bool = False) -> metrics.Curve:
        """See `theval.lip_sync`; of the filmed person instead, if asked for."""
        openings = np.array(self.speech.film.lip_openings if film and self.speech.film else self.lip_openings)
        return theval.lip_sync(openings, theval.loudness(self.speech.audio, len(openings)), self.voiced)

    def silent_movement(self, film: bool = False) -> metrics.Curve:
        """See `theval.silent_movement`; of the filmed person instead, if asked for."""
        openings = np.array(self.speech.film.lip_openings if film and self.speech.film else self.lip_openings)
        return theval.silent_movement(openings, self.voiced)

    def closing_contrast(self, truth: bool = False) -> metrics.Curve:
        """See `teeth.while_closing`."""
        return teeth.while_closing(np.array(self.true_teeth if truth else self.teeth), self.curve("opening", truth))

    def opening_contrast(self, truth: bool = False) -> metrics.Curve:
        """See `teeth.while_opening`."""
        return teeth.while_opening(np.array(self.true_teeth if truth else self.teeth), self.curve("opening", truth))

    def width_in(self, name: str, truth: bool = False) -> metrics.Curve:
        """The width in the middle frame of each phoneme of a name, percent of the eyes' distance."""
        spans = metrics.phone_spans(self.speech.phones, {name}, len(self.shapes))
        return self.curve("width", truth)[[(first + stop - 1) // 2 for first, stop in spans]]

    def landmark_distances(self) -> metrics.Curve:
        """LMD of each frame against the truth: the filmed person, else the truth pictures; empty if there is none."""
        true = self.speech.film.landmarks if self.speech.film else self.true_landmarks
        return np.array([theval.landmark_distance(a, b) for a, b in zip(self.landmarks, true, strict=False)])

    def pauses(self) -> list[metrics.Span]:
        """Pauses longer than 0.3 s without their ends, from the phonemes if they are known, else from the level."""
        if not self.speech.phones:
            return metrics.pauses(self.speech.audio, len(self.shapes))
        return metrics.long_runs(self._in_phones({"pau"}))

    def speaking(self) -> NDArray[np.bool_]:
        """Frames with a phoneme. The others do not count in comparisons: a mouth at rest is easy to draw."""
        return self._in_phones({name for name, _ in self.speech.phones} - {"pau"})

    def closures(self) -> list[metrics.Span]:
        """The spans of p, b and m."""
        return metrics.phone_spans(self.speech.phones, LIPS_CLOSE, len(self.shapes))

    def closure_names(self) -> list[str]:
        """The names of the phonemes of `closures`."""
        found, begin = [], 0.0
        for name, end in self.speech.phones:
            if name in LIPS_CLOSE and round(begin * FPS) < len(self.shapes):
                found.append(name)
            begin = end
        return found

    def _in_phones(self, names: set[str]) -> NDArray[np.bool_]:
        flags = np.zeros(len(self.shapes), bool)
        for first, stop in metrics.phone_spans(self.speech.phones, names, len(flags)):
            flags[first:stop] = True
        return flags


def joined(name: str, speeches: Sequence[RenderedSpeech], before: float = 0.2, after: float = 0.4) -> RenderedSpeech:
    """Several speeches with known phonemes as one, with digital silence (seconds) around each."""
    audio: list[NDArray[np.float32]] = []
    phones: list[Phone] = []
    now = 0.0
    for speech in speeches:
        lead, tail = (np.zeros(round(seconds * SAMPLE_RATE), np.float32) for seconds in (before, after))
        piece = np.concatenate([lead, speech.audio, tail])
        phones.append(("pau", now + before))
        phones += [(phone, now + before + end) for phone, end in speech.phones]
        now += len(piece) / SAMPLE_RATE
        phones.append(("pau", now))
        audio.append(piece)
    return RenderedSpeech(name, np.concatenate(audio), tuple(phones))
