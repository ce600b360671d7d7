"""Training examples of a U-Net: face, audio and target pictures, and the face regions that weight the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Mask = tuple[int, int, int, int]  # x, y, width, height of what is blacked in the crop, and pasted into the footage
MASK: Mask = (5, 5, 310, 305)  # SyncTalk_2D's
Window = tuple[slice, slice]  # rows, columns of the crop
WHOLE: Window = (slice(0, 320), slice(0, 320))
BLOCK = 16  # pixels


@dataclass(frozen=True)
class FaceRegions:
    """The regions of the crop that move with speech, in pixels.

    `centre` and `radius` (row, column) are those of the mouth, where errors count most.
    """

    mouth: Window
    chin: Window  # everything that moves with speech
    centre: tuple[float, float]
    radius: tuple[float, float]
    mask: Mask = MASK

    @property
    def covered(self) -> Window:
        """The mask's rectangle, which is all that is shown of the network's picture, and two pixels around it.

        The outermost two pixels of a window are not exact, see `unet_training.forward_window`.
        """
        x, y, width, height = self.mask
        return slice(max(0, y - 2), min(320, y + height + 2)), slice(max(0, x - 2), min(320, x + width + 2))

    @property
    def schedule(self) -> tuple[Window, ...]:
        """The windows that the training steps compute in turn: most often those that move most.

        The rest of the crop is trained too, although it is never shown. Otherwise it takes extreme values, and their
        range costs INT8 its precision.
        """
        return (self.covered, self.mouth, self.chin, WHOLE, self.mouth, self.mouth, self.covered, self.mouth)

    def weights(self) -> Tensor:
        """Weights of errors, up to four times as large at the mouth, FP32 [320,320]."""
        y, x = torch.meshgrid(torch.arange(320.0), torch.arange(320.0), indexing="ij")
        down, across = (y - self.centre[0]) / self.radius[0], (x - self.centre[1]) / self.radius[1]
        return 2.5 + 7 * torch.exp(-(across**4) - down**4)


@dataclass(frozen=True)
class Example:
    """One face with K frames of speech: K training samples. Pictures are crops, BGR uint8 [320,320,3].

    Sharing the face saves a third of the work if the source can draw it with any mouth. A video has K = 1.
    """

    reference: NDArray[np.uint8]  # input channels 0-2: the face
    current: NDArray[np.uint8]  # this frame's face: input channels 3-5, after `batch_of` has masked its mouth
    audio: NDArray[np.float32]  # [K,32,16,16]
    targets: NDArray[np.uint8]  # [K,320,320,3]


class Source(Protocol):
    """A source of examples: a rendered avatar, or a video with its own sound."""

    @property
    def regions(self) -> FaceRegions: ...

    def example(self, rng: np.random.Generator) -> Example: ...


def _pictures(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def batch_of(
    examples: Sequence[Example], mask: Mask, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(input [N,6,320,320], audio [N*K,32,16,16], targets [N*K,3,320,320]): K samples of one face follow each other."""
    masked = _pictures(np.stack([e.current for e in examples]))
    x, y, width, height = mask
    masked[:, :, y : y + height, x : x + width] = 0
    both = torch.cat([_pictures(np.stack([e.reference for e in examples])), masked], 1)
    audio = torch.from_numpy(np.concatenate([e.audio for e in examples]))
    return (
        both.contiguous(memory_format=torch.channels_last).to(device),
        audio.to(device),
        _pictures(np.concatenate([e.targets for e in examples])).to(device),
    )


def picture_loss(output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted loss of pictures [N,3,h,w]: L1, L2, gradients, and means over blocks.

    L2 makes a wrong mouth count more than a blurred one. More weight on gradients makes an uncertain network draw no
    edges at all. Means over blocks penalise a tint that changes with the pose: it is small in each pixel, but it shows
    as a shimmer.

    Args:
        weights: [h,w].
    """
    error = output - target
    tint = functional.avg_pool2d(error * weights, BLOCK).abs().mean()
    steps = (error.diff(dim=3).abs() * weights[:, 1:]).mean() + (error.diff(dim=2).abs() * weights[1:]).mean()
    return (((error.abs() + 4 * error.square()) * weights).mean() + 0.3 * steps + tint) / 4
