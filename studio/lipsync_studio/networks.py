"""The two networks of the pipeline in PyTorch. Modules have SyncTalk_2D's names, so its checkpoints load strictly.

mel window [N,1,80,16] -> AudioEncoder -> features [N,512]
crops [N,6,320,320] and 16 rows of features [N,32,16,16] -> UNet -> the speaking crop [N,3,320,320]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipsync_client.errors import LipsyncError

WIDTHS = {"full": (32, 64, 128, 256, 512), "half": (16, 32, 64, 128, 256)}
AUDIO_CHANNELS = 32  # 16 rows x 512 features, reshaped to 32 x 16 x 16


class CheckpointError(LipsyncError):
    """A file is not a checkpoint of the wanted network; the message says what is wrong with it."""


class EncoderBlock(nn.Module):
    """Conv + BatchNorm, plus the input where `residual`, then ReLU."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        stride: int | tuple[int, int] = 1,
        padding: int = 1,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, kernel, stride, padding), nn.BatchNorm2d(channels_out)
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_block(x)
        return functional.relu(y + x if self.residual else y)


class AudioEncoder(nn.Module):
    """A window of 16 mel frames `[N,1,80,16]`, values in [-4, 4] -> features `[N,512]`, all >= 0."""

    def __init__(self) -> None:
        super().__init__()
        block = EncoderBlock
        self.audio_encoder = nn.Sequential(
            block(1, 32),
            block(32, 32, residual=True),
            block(32, 32, residual=True),
            block(32, 64, stride=(3, 1)),
            block(64, 64, residual=True),
            block(64, 64, residual=True),
            block(64, 128, stride=3),
            block(128, 128, residual=True),
            block(128, 128, residual=True),
            block(128, 256, stride=(3, 2)),
            block(256, 256, residual=True),
            block(256, 512, padding=0),
            block(512, 512, kernel=1, padding=0),
        )

    def forward(self, mel: Tensor) -> Tensor:
        features: Tensor = self.audio_encoder(mel)
        return features.flatten(1)


class InvertedResidual(nn.Module):
    """1x1 expand, 3x3 depthwise, 1x1 project, plus the input if `residual` (MobileNetV2's block with ReLU)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, residual: bool, expand: int = 2) -> None:
        super().__init__()
        hidden = channels_in * expand
        self.residual = residual
        self.conv = nn.Sequential(
            nn.Conv2d(channels_in, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class DoubleConv(nn.Module):
    """Two inverted residuals: the first changes size and channels, the second refines."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            InvertedResidual(channels_in, channels_out, stride, False),
            InvertedResidual(channels_out, channels_out, 1, True),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.double_conv(x)
        return y


class InConv(nn.Module):
    """The U-Net's first stage: an inverted residual at full size."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.inconv = nn.Sequential(InvertedResidual(channels_in, channels_out, 1, False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inconv(x)
        return y


class Down(nn.Module):
    """A downward stage: half the size."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(DoubleConv(channels_in, channels_out, 2))  # strided; the name is historical

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.maxpool_conv(x)
        return y


class Up(nn.Module):
    """An upward stage: twice the size, joined with the skip connection of that size. 320 halves evenly five times."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv = DoubleConv(channels_in, channels_out, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.cat([self.up(x), skip], dim=1))
        return y


class OutConv(nn.Module):
    """A 1x1 convolution to the picture's channels."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class AudioBranch(nn.Module):
    """`[N,32,16,16]` -> `[N,c4,10,10]`, the size of the picture's deepest features."""

    def __init__(self, c: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = InvertedResidual(AUDIO_CHANNELS, c[1], 1, False)
        self.conv2 = InvertedResidual(c[1], c[2], 1, False)
        self.conv3 = nn.Conv2d(c[2], c[3], 3, padding=1)
        self.bn3 = nn.BatchNorm2d(c[3])
        self.conv4 = InvertedResidual(c[3], c[3], 1, True)
        self.conv5 = nn.Conv2d(c[3], c[4], 3, padding=3, stride=2)
        self.bn5 = nn.BatchNorm2d(c[4])
        self.conv6 = InvertedResidual(c[4], c[4], 1, True)
        self.conv7 = InvertedResidual(c[4], c[4], 1, True)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn3(self.conv3(self.conv2(self.conv1(x)))))
        x = functional.relu(self.bn5(self.conv5(self.conv4(x))))
        y: Tensor = self.conv7(self.conv6(x))
        return y


class UNet(nn.Module):
    """SyncTalk_2D's "328" U-Net in mode `ave`.

    Args:
        width: "full" (12,186,935 parameters), "half" (about a third of the time), or five channel counts.
    """

    def __init__(self, width: str | Sequence[int] = "full") -> None:
        super().__init__()
        c = tuple(WIDTHS[width] if isinstance(width, str) else width)
        self.widths = c
        self.audio_model = AudioBranch(c)
        self.fuse_conv = nn.Sequential(DoubleConv(2 * c[4], c[4], 1), DoubleConv(c[4], c[3], 1))
        self.inc = InConv(6, c[0])
        self.down1 = Down(c[0], c[0])
        self.down2 = Down(c[0], c[1])
        self.down3 = Down(c[1], c[2])
        self.down4 = Down(c[2], c[3])
        self.down5 = Down(c[3], c[4])
        self.up1 = Up(c[4], c[3] // 2)
        self.up2 = Up(c[3], c[2] // 2)
        self.up3 = Up(c[2], c[1] // 2)
        self.up4 = Up(c[1], c[0])
        self.up5 = Up(c[1], c[0] // 2)
        self.outc = OutConv(c[0] // 2, 3)

    def forward(self, picture: Tensor, audio: Tensor) -> Tensor:
        """picture `[N,6,320,320]` (BGR in 0..1, whole and masked), audio `[N,32,16,16]` -> `[N,3,320,320]` in 0..1."""
        x1 = self.inc(picture)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x5 = self.down4(x4)
        x6 = self.down5(x5)
        x = self.fuse_conv(torch.cat([x6, self.audio_model(audio)], dim=1))
        for up, skip in zip((self.up1, self.up2, self.up3, self.up4, self.up5), (x5, x4, x3, x2, x1), strict=True):
            x = up(x, skip)
        return torch.sigmoid(self.outc(x))


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, in FP32. No code in the file is run.

    Raises:
        CheckpointError: the file is not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: not a PyTorch checkpoint ({type(error).__name__})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: holds no state dict of tensors")
    several_gpus = "module."  # the prefix that training on several GPUs leaves
    return {k.removeprefix(several_gpus): v.float() if v.is_floating_point() else v for k, v in state.items()}


def _some(keys: list[str]) -> str:
    return f"{len(keys)} ({', '.join(keys[:3])}{', ..' if len(keys) > 3 else ''})"


def _load_strictly(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    wrong = {
        "missing": [k for k in own if k not in state],
        "unexpected": [k for k in state if k not in own],
        "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
    }
    if any(wrong.values()):
        found = "; ".join(f"{what}: {_some(keys)}" for what, keys in wrong.items() if keys)
        raise CheckpointError(f"{path}: not a checkpoint of {type(network).__name__}: keys {found}")
    network.load_state_dict(state, strict=True)


def load_encoder_checkpoint(path: str | Path) -> AudioEncoder:
    """The audio encoder of a checkpoint, ready for inference; keys with or without the prefix `audio_encoder.`.

    Raises:
        CheckpointError: it is another network's file; the message names the wrong keys.
    """
    path, prefix = Path(path), "audio_encoder."
    state = {k if k.startswith(prefix) else prefix + k: v for k, v in read_state(path).items()}
    network = AudioEncoder()
    _load_strictly(network, state, path)
    return network.eval()


def load_unet_checkpoint(path: str | Path) -> UNet:
    """The U-Net of a checkpoint, ready for inference; its widths are read from the file's shapes.

    Raises:
        CheckpointError: it is another network's file; the message names the wrong keys.
    """
    path = Path(path)
    state = read_state(path)
    first = state.get("inc.inconv.0.conv.6.weight")
    c0 = first.shape[0] if first is not None else WIDTHS["full"][0]
    network = UNet([c0 * 2**i for i in range(5)])
    _load_strictly(network, state, path)
    return network.eval()
