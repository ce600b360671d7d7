"""Renders speeches with one avatar and measures every frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from lipsync_client.console import notes
from lipsync_composite.loop import footage_index
from lipsync_composite.segments import Rect
from lipsync_server.pipeline import LocalPipeline
from lipsync_studio.evaluation import metrics, theval
from lipsync_studio.evaluation.contact_sheets import SHEET_WIDTHS
from lipsync_studio.evaluation.mouth_meter import MouthMeter
from lipsync_studio.evaluation.patch_metrics import Footage, PatchMetrics, Picture, decode, mouth_square
from lipsync_studio.evaluation.recording import Comparison, Recording, RenderedSpeech, Truth
from lipsync_studio.evaluation.sharpness import cpbd
from lipsync_studio.evaluation.teeth import teeth_contrast

OVERVIEW = 12  # whole frames that are kept of a recording
SHARPNESS_STEP = 5  # frames: sharpness changes slowly, and takes longer than the landmarks


class EvaluationSession:
    """Records speeches of one avatar.

    Args:
        pipeline: renders the speech.
        footage: the avatar's plain frames.
        meter: measures the mouth.
        truth: gives the picture that should have come out; None if it is not known.
    """

    def __init__(self, pipeline: LocalPipeline, footage: Footage, meter: MouthMeter, truth: Truth | None) -> None:
        self._pipeline, self._footage, self._meter, self._truth = pipeline, footage, meter, truth

    def record(self, speech: RenderedSpeech) -> Recording:
        """Render a speech and measure every frame."""
        result = Recording(speech, PatchMetrics(self._footage, self._meter.lips))
        total = speech.frames
        curves = speech.curves() if speech.phones and self._truth else None
        frames = track(self._pipeline.render(speech.audio), speech.name, total, transient=True, console=notes)
        for number, (position, mouth, jpeg) in enumerate(frames):
            sent = decode(jpeg)
            patch, picture = self._pipeline.avatar.composited(position, mouth)
            result.patch.add(position, patch, picture)
            result.beyond_patch += self._changed_beyond(patch, sent, position)
            self._measure_mouth(result, sent, position)
            self._measure_sharpness(result, sent, position)
            result.mouths.append(self._mouth(sent, position))
            if number % max(total // OVERVIEW, 1) == total // (2 * OVERVIEW):
                result.overview.append(sent)
            if curves is not None and self._truth is not None:
                facts = self._footage.facts
                true = self._truth(footage_index(position, facts.frames, facts.loop), curves[number])
                result.add_comparison(self._compare(position, self._pasted(position, patch, picture), true))
        return result

    def _measure_mouth(self, result: Recording, sent: Picture, position: int) -> None:
        box = self._footage.box(position)
        points = self._meter.landmarks(sent, box)
        result.shapes.append(self._meter.shape(points, sent, box))
        result.lip_openings.append(theval.lip_opening(points))
        result.landmarks.append(theval.mouth_landmarks(points))
        result.teeth.append(teeth_contrast(sent, points))

    def _measure_sharpness(self, result: Recording, sent: Picture, position: int) -> None:
        if len(result.sharpness) % SHARPNESS_STEP:
            values = (float("nan"), float("nan"))
        else:
            x, y, size = self._footage.box(position)
            face = np.s_[max(y, 0) : y + size, max(x, 0) : x + size]
            values = (cpbd(sent[face]), cpbd(self._footage.frame(position)[face]))
        result.sharpness.append(values[0])
        result.plain_sharpness.append(values[1])

    def _changed_beyond(self, patch: Rect, sent: Picture, position: int) -> int:
        """Pixels of a sent frame that are not in the patch and differ from the plain frame's."""
        different = sent != self._footage.frame(position)
        near = 2  # pixels: decoders smooth colour across the borders of blocks
        top, left = max(patch.y - near, 0), max(patch.x - near, 0)
        different[top : patch.y + patch.height + near, left : patch.x + patch.width + near] = False
        return int(different.any(axis=2).sum()) if different.any() else 0  # `any(axis=2)` takes ten times as long

    def _pasted(self, position: int, patch: Rect, picture: Picture) -> Picture:
        frame = self._footage.frame(position).copy()
        patch.of(frame)[:] = picture
        return frame

    def _mouth(self, sent: Picture, position: int) -> Picture:
        whole = Rect(0, 0, sent.shape[1], sent.shape[0])
        square = mouth_square(self._footage.box(position), self._meter.lips, whole, SHEET_WIDTHS)
        return np.array(square.of(sent), np.uint8)

    def _compare(self, position: int, pasted: Picture, true: NDArray[np.uint8]) -> Comparison:
        """Compare a frame with the truth.

        Args:
            pasted: the whole frame before JPEG.
            true: the face crop that should have come out.
        """
        avatar, box = self._pipeline.avatar, self._footage.box(position)
        square = mouth_square(box, self._meter.lips)
        a, b = square.of(pasted), square.of(self._pasted(position, *avatar.composited(position, true)))
        sent = decode(avatar.render(position, true))
        points = self._meter.landmarks(sent, box)
        return Comparison(
            metrics.psnr(a, b),
            metrics.ssim(a, b),
            metrics.gmsd(a, b),
            a.astype(np.float32) - b,
            self._meter.shape(points, sent, box),
            teeth_contrast(sent, points),
            theval.mouth_landmarks(points),
            self._mouth(sent, position),
        )
