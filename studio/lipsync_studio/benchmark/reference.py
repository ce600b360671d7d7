"""The reference way: SyncTalk_2D's loop in PyTorch eager, frame by frame, whole frames pasted and encoded.

Weights are random: they do not change how long it takes.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lipsync_mel import mel, timeline
from lipsync_server.repository.source import AvatarSource
from lipsync_studio.networks import AudioEncoder, UNet


class Reference:
    """Renders an avatar's footage with networks of one width ("half" or "full")."""

    def __init__(self, source: AvatarSource, width: str) -> None:
        boxes = source.read_boxes()
        self.frames = [(frame, boxes[number]) for number, frame in zip(range(32), source.frames(), strict=False)]
        self.filterbank, self.encoder, self.unet = mel.load_filterbank(), AudioEncoder().eval(), UNet(width).eval()

    @torch.inference_mode()
    def render(self, speech: NDArray[np.float32], count: int) -> list[bytes]:
        """The first `count` frames of a speech, as JPEG."""
        starts, inside = timeline.row_windows(0, count, len(speech))
        windows = mel.encoder_windows(self.filterbank, speech, 0, len(speech), starts, inside)
        rows = torch.cat([self.encoder(torch.from_numpy(window[None])) for window in windows])
        return [self._frame(rows[index : index + 16].reshape(1, 32, 16, 16), index) for index in range(count)]

    def _frame(self, audio: torch.Tensor, index: int) -> bytes:
        footage, (x, y, size) = self.frames[index % len(self.frames)]
        frame = footage.copy()
        crop = cv2.resize(frame[y : y + size, x : x + size], (328, 328), interpolation=cv2.INTER_CUBIC)
        face = crop[4:324, 4:324]
        masked = cv2.rectangle(face.copy(), (5, 5, 310, 305), (0, 0, 0), -1)
        six = np.concatenate([face, masked], axis=2).transpose(2, 0, 1)[None].astype(np.float32) / 255
        mouth = self.unet(torch.from_numpy(six), audio)[0].numpy()
        crop[4:324, 4:324] = (mouth.transpose(1, 2, 0) * 255).astype(np.uint8)
        frame[y : y + size, x : x + size] = cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)
        return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()
