"""The served graphs of a U-Net: with an avatar resident in it, and for callers who bring their own channels.

lipsync           audio features, footage position -> uint8 mouth, with what the avatar's footage gives inside
lipsync_visual    audio features, the caller's own six channels -> uint8 mouth
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.compose
from numpy.typing import NDArray
from onnx import numpy_helper

from lipsync_composite.geometry import INNER
from lipsync_server.networks.constants import Kind
from lipsync_server.networks.graphs import check_interface, like, without_values
from lipsync_server.networks.resident import Windowed
from lipsync_server.networks.window import Window

# Footage position -> footage frame, the same walk as composite's.
LOOPS = {
    "forward": "frame = Identity(there)",
    "pingpong": """back = Sub(length, there)
  frame = Min(there, back)""",
}
DIGIT = 1024  # of a position
MAX_LENGTH = 2**24 // DIGIT - 1  # of a loop: 16,383 positions, 11 minutes

# `there` is the position modulo the loop's length, digit by digit: OpenVINO divides whole numbers in FP32, which is
# exact below 2**24 only, a week of frames. A wrong `high` or `top` would not matter: the digit below makes up for it.
FOOTAGE_FRONT = """
front (float[B,32,16,16] audio_features, int64[B,1] footage_position,
       uint8[%(frames)d,3,%(height)d,%(width)d] %(views)s%(kept_inputs)s)
  => (float[B,6,%(height)d,%(width)d] input, float[B,32,16,16] audio, int64[B,1] avatar_key%(kept_outputs)s)
<int64[1] flat = {-1}, int64 length = {%(length)d}, int64 digit = {%(digit)d}, float full = {255},
 int64[1,1] key = {%(key)d}>
{
  audio = Identity(audio_features)
  batch = Shape(footage_position)
  avatar_key = Expand(key, batch)
  position = Reshape(footage_position, flat)
  high = Div(position, digit)
  high_only = Mul(high, digit)
  low = Sub(position, high_only)
  top = Div(high, digit)
  top_only = Mul(top, digit)
  middle = Sub(high, top_only)
  top_rest = Mod(top, length)
  top_raised = Mul(top_rest, digit)
  high_sum = Add(top_raised, middle)
  high_rest = Mod(high_sum, length)
  high_raised = Mul(high_rest, digit)
  sum = Add(high_raised, low)
  there = Mod(sum, length)
  %(loop)s
  view = Gather<axis = 0>(%(views)s, frame)
  levels = Cast<to = 1>(view)
  crop = Div(levels, full)
  masked = Mul(crop, mask)
  input = Concat<axis = 1>(crop, masked)
  %(kept)s
}
"""

MOUTH_BACK = """
back (float[B,3,%(height)d,%(width)d] output) => (uint8[B,320,320,3] mouth)
<float white = {255}, int64[8] around = {0,%(top)d,%(left)d,0,0,%(below)d,%(beside)d,0}>
{
  brightness = Mul(output, white)
  truncated = Cast<to = 2>(brightness)
  picture = Transpose<perm = [0, 2, 3, 1]>(truncated)
  mouth = Pad(picture, around)
}
"""

VISUAL_FRONT = """
front (float[B,32,16,16] audio_features, float[B,6,320,320] visual_frames)
  => (float[B,6,320,320] input, float[B,32,16,16] audio, int64[B,1] avatar_key)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1,1] key = {%(key)d}>
{
  audio = Identity(audio_features)
  input = Identity(visual_frames)
  sizes = Shape(audio_features)
  size = Slice(sizes, zero, one, zero)
  batch = Concat<axis = 0>(size, one)
  avatar_key = Expand(key, batch)
}
"""


@dataclass(frozen=True)
class Resident:
    """An avatar as its network knows it.

    Attributes:
        frames: how many its footage has.
        mask: x, y, width, height of what the network does not see, as cv2.rectangle reads it.
        loop: "forward" or "pingpong".
        key: the avatar's content hash.
    """

    frames: int
    mask: tuple[int, int, int, int]
    loop: str
    key: int

    def facts(self) -> dict[str, object]:
        """What the front's text needs. Raises ValueError if the footage is too long."""
        length = self.frames if self.loop == "forward" else max(1, 2 * self.frames - 2)  # both ends are shared
        if length > MAX_LENGTH:
            raise ValueError(
                f"the footage has {self.frames} frames and loops {self.loop}: its loop must have at most {MAX_LENGTH}"
            )
        return {
            "frames": self.frames,
            "length": length,
            "digit": DIGIT,
            "key": self.key,
            "loop": LOOPS[self.loop],
        }

    def visible(self) -> NDArray[np.float32]:
        """1 where the network sees the crop, 0 in the mask: [1,1,320,320]."""
        x, y, width, height = self.mask
        visible = np.ones((1, 1, INNER, INNER), np.float32)
        visible[:, :, y : y + height, x : x + width] = 0
        return visible


def served_unet(network: onnx.ModelProto, avatar: Resident) -> onnx.ModelProto:
    """The whole U-Net with an avatar resident in it.

    Args:
        network: `input` [N,6,320,320], `audio` [N,32,16,16] -> `output` [N,3,320,320] in 0..1.
        avatar: whose footage it is.

    Returns:
        audio_features [B,32,16,16], footage_position INT64 [B,1] and the constant `crops` UINT8 [n,3,320,320] (BGR, of
        each footage frame; see `constants.py`) -> mouth UINT8 [B,320,320,3], avatar_key [B,1].

    Raises:
        ValueError: the network has other inputs or outputs, or the footage is too long.
    """
    return _with_footage(network, {}, Window.whole(INNER), avatar, "crops")


def served_resident(mouth: Windowed, kept: dict[str, Kind], avatar: Resident) -> onnx.ModelProto:
    """As `served_unet`, of what `resident.windowed` leaves of a U-Net; beside its window, the mouth is black.

    Args:
        kept: type (UINT8 or FP16) and shape of each kept tensor for one footage frame.

    Returns:
        as `served_unet`; its constants are `views` UINT8 [n,3,..], the crops' windows, and `kept0`, .. [n, ..] in the
        order of `kept`.
    """
    return _with_footage(mouth.network, kept, mouth.window, avatar, "views")


def served_unet_visual(network: onnx.ModelProto, key: int) -> onnx.ModelProto:
    """The U-Net for callers who bring their own channels: `visual_frames` [B,6,320,320] instead of a position."""
    check_interface(network, "the U-Net", {"input", "audio"}, {"output"})
    return _joined(like(network, VISUAL_FRONT % {"key": key}), network, {}, Window.whole(INNER))


def _with_footage(
    network: onnx.ModelProto, kept: dict[str, Kind], window: Window, avatar: Resident, views: str
) -> onnx.ModelProto:
    check_interface(network, "the U-Net", {"input", "audio", *kept}, {"output"})
    height, width = window.shape
    facts = avatar.facts() | {"height": height, "width": width, "views": views}
    front = like(network, FOOTAGE_FRONT % (facts | _kept_text(kept.values(), avatar.frames)))
    visible = np.ascontiguousarray(window.of(avatar.visible()))
    front.graph.initializer.append(numpy_helper.from_array(visible, "mask"))
    return _joined(front, network, {f"now{number}": name for number, name in enumerate(kept)}, window)


def _joined(front: onnx.ModelProto, network: onnx.ModelProto, given: dict[str, str], window: Window) -> onnx.ModelProto:
    """front -> network -> uint8 mouth. `given`: outputs of the front, and the network's inputs that they are."""
    inner = onnx.compose.add_prefix(without_values(network), "unet_")
    io_map = [("input", "unet_input"), ("audio", "unet_audio"), *((own, f"unet_{name}") for own, name in given.items())]
    joined = onnx.compose.merge_models(front, inner, io_map=io_map, producer_name="lipsync-triton")
    (top, bottom), (left, right) = window
    height, width = window.shape
    cut = {"height": height, "width": width, "top": top, "left": left, "below": INNER - bottom, "beside": INNER - right}
    back = like(network, MOUTH_BACK % cut)
    joined = onnx.compose.merge_models(joined, back, io_map=[("unet_output", "output")], producer_name="lipsync-triton")
    onnx.checker.check_model(joined)
    return joined


def _kept_text(kept: Iterable[Kind], frames: int) -> dict[str, str]:
    """The parts of the front's text that pick what was kept of a footage frame."""
    inputs, outputs, lines = "", "", []
    for number, (kind, shape) in enumerate(kept):
        dims, half = ",".join(map(str, shape)), kind == np.float16
        inputs += f", {'float16' if half else 'uint8'}[{frames},{dims}] kept{number}"
        outputs += f", {'float' if half else 'uint8'}[B,{dims}] now{number}"
        lines.append(f"{'half' if half else 'now'}{number} = Gather<axis = 0>(kept{number}, frame)")
        if half:
            lines.append(f"now{number} = Cast<to = 1>(half{number})")
    return {"kept_inputs": inputs, "kept_outputs": outputs, "kept": "\n  ".join(lines)}
