"""The head in PyTorch, and its export to ONNX.

    half [N,c,160,160], crop [N,3,320,320] in 0..1 -> output [N,3,320,320] in 0..1

It works at half the picture's size, where a U-Net's last stage works at the whole: the crop is folded, each 2 x 2
pixels into one of 12 channels, and the picture is unfolded from 12 channels.
"""

from __future__ import annotations

import onnx
import onnx.parser
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from lipsync_studio.export import IR_VERSION, OPSET

HIDDEN = 32  # channels; 64 are no closer to the U-Net on new speech
FOLDED = 12  # channels of a folded picture
REACH = 4  # pixels around an output pixel that it depends on

GRAPH = """
<ir_version: %(ir)d, opset_import: ["" : %(opset)d]>
head (float[N,%(channels)d,160,160] half, float[N,3,320,320] crop) => (float[N,3,320,320] output)
{
  folded = SpaceToDepth<blocksize = 2>(crop)
  seen = Concat<axis = 1>(half, folded)
  mixed = Conv<kernel_shape = [1, 1]>(seen, mix_weight, mix_bias)
  first = Relu(mixed)
  around = Conv<kernel_shape = [3, 3], group = %(hidden)d, pads = [1, 1, 1, 1]>(first, near_weight, near_bias)
  blended = Conv<kernel_shape = [1, 1]>(around, blend_weight, blend_bias)
  second = Relu(blended)
  sum = Add(second, first)
  further = Conv<kernel_shape = [3, 3], group = %(hidden)d, pads = [1, 1, 1, 1]>(sum, far_weight, far_bias)
  third = Relu(further)
  colours = Conv<kernel_shape = [1, 1]>(third, out_weight, out_bias)
  unfolded = DepthToSpace<blocksize = 2, mode = "CRD">(colours)
  output = Sigmoid(unfolded)
}
"""


class Head(nn.Module):
    """1x1 mix, 3x3 depthwise and 1x1 with a residual, 3x3 depthwise, 1x1 to the folded picture.

    Args:
        channels: of `half`: 16 at half width, 32 at full width.
    """

    def __init__(self, channels: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.channels, self.hidden = channels, hidden
        self.mix = nn.Conv2d(channels + FOLDED, hidden, 1)
        self.near = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.blend = nn.Conv2d(hidden, hidden, 1)
        self.far = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.out = nn.Conv2d(hidden, FOLDED, 1)

    def forward(self, half: Tensor, crop: Tensor) -> Tensor:
        """half `[N,c,h,w]`, crop `[N,3,2h,2w]` in 0..1 -> `[N,3,2h,2w]` in 0..1. Exact `REACH` pixels from the edge of
        a window, everywhere in the whole picture.
        """
        x = functional.relu(self.mix(torch.cat([half, fold(crop)], 1)))
        x = functional.relu(self.blend(self.near(x))) + x
        x = functional.relu(self.far(x))
        return torch.sigmoid(functional.pixel_shuffle(self.out(x), 2))


def fold(crop: Tensor) -> Tensor:
    """`[N,3,2h,2w]` -> `[N,12,h,w]` as ONNX's SpaceToDepth: `pixel_unshuffle` has another order of channels."""
    return torch.cat([crop[:, :, y::2, x::2] for y in (0, 1) for x in (0, 1)], 1)


def export_head(head: Head) -> onnx.ModelProto:
    """The head as ONNX, weights in FP32: `half` [N,c,160,160], `crop` [N,3,320,320] -> `output` [N,3,320,320]."""
    numbers = {"ir": IR_VERSION, "opset": OPSET, "channels": head.channels, "hidden": head.hidden}
    model = onnx.parser.parse_model(GRAPH % numbers)
    model.graph.initializer.extend(
        numpy_helper.from_array(values.cpu().contiguous().numpy(), name.replace(".", "_"))
        for name, values in head.state_dict().items()
    )
    model.producer_name = "lipsync-triton"
    onnx.checker.check_model(model, full_check=True)
    return model
