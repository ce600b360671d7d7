"""What a U-Net is trained on, wherever it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Mask = tuple[int, int, int, int]  # x, y, width, height of what is blacked in the crop, and pasted into the footage
MASK: Mask = (5, 5, 310, 305)  # SyncTalk_2D's
Window = tuple[slice, ...]  # rows, columns of the crop
WHOLE: Window = (slice(0, 320), slice(0, 320))
BLOCK = 16  # pixels


@dataclass(frozen=True)
class Places:
    """Where in its crop a face speaks, in pixels; `middle` and `reach` (row, column) tell which errors count most."""

    mouth: Window
    chin: Window  # where anything moves as it speaks
    middle: tuple[float, float]
    reach: tuple[float, float]
    mask: Mask = MASK

    @property
    def covered(self) -> Window:
        """What the mask covers, all that is seen of the network's picture. Two more pixels, see `speak`."""
        x, y, width, height = self.mask
        return slice(max(0, y - 2), min(320, y + height + 2)), slice(max(0, x - 2), min(320, x + width + 2))

    @property
    def turns(self) -> tuple[Window, ...]:
        """What is computed in one training step after another: less often what hardly moves.

        What is never seen is trained too: left alone it takes extreme values, in whose range INT8 loses the rest.
        """
        return (self.covered, self.mouth, self.chin, WHOLE, self.mouth, self.mouth, self.covered, self.mouth)

    def weights(self) -> Tensor:
        """Errors at the mouth count up to four times as much, FP32 [320,320]."""
        y, x = torch.meshgrid(torch.arange(320.0), torch.arange(320.0), indexing="ij")
        down, across = (y - self.middle[0]) / self.reach[0], (x - self.middle[1]) / self.reach[1]
        return 2.5 + 7 * torch.exp(-(across**4) - down**4)


@dataclass(frozen=True)
class Example:
    """One face with K moments of speech: K training samples. Pictures are crops, BGR uint8 [320,320,3].

    Sharing the face saves a third of the work where the source can draw it with any mouth; a video has K = 1.
    """

    reference: np.ndarray  # input channels 0-2: the face
    current: np.ndarray  # the face of this moment: input channels 3-5, once `batch_of` has masked its mouth
    audio: np.ndarray  # FP32 [K,32,16,16]
    targets: np.ndarray  # BGR uint8 [K,320,320,3]


class Source(Protocol):
    """Where examples come from: a rendered avatar, a video with its own sound, .."""

    @property
    def places(self) -> Places: ...

    def example(self, rng: np.random.Generator) -> Example: ...


def _pictures(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def batch_of(examples: list[Example], mask: Mask, device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
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
    """Of pictures [N,3,h,w]: L1, squares so that a wrong mouth counts more than a soft one, a little of the gradients.

    More weight on gradients makes an unsure network draw no edges at all. Means over blocks count again: a tint that
    changes from pose to pose shows as a shimmer, however small it is in each pixel.
    """
    error = output - target
    tint = functional.avg_pool2d(error * weights, BLOCK).abs().mean()
    steps = (error.diff(dim=3).abs() * weights[:, 1:]).mean() + (error.diff(dim=2).abs() * weights[1:]).mean()
    return (((error.abs() + 4 * error.square()) * weights).mean() + 0.3 * steps + tint) / 4
