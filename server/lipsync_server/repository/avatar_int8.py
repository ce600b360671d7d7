"""An avatar's network in INT8, calibrated on its own crops and the sample speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lipsync_client.console import note, notes
from lipsync_server import home
from lipsync_server.networks.quantize import LEAST_DB, mouth_psnr, network_inputs, quantize_within, speech_features
from lipsync_server.repository.model_folders import INT8_ENCODER, SHARED_ENCODER
from lipsync_server.repository.source import AvatarSource, SourceError

CALIBRATION = 64  # frames
COMPARED = 12  # frames


def quantised(
    network: onnx.ModelProto,
    crops: NDArray[np.uint8],
    source: AvatarSource,
    repository: Path,
    encoder: onnx.ModelProto | None,
) -> onnx.ModelProto:
    """The network in INT8. Tells what that costs in accuracy.

    Args:
        network: the plain U-Net.
        crops: the footage's face crops, shape = (n, 320, 320, 3).
        source: the avatar.
        repository: has the shared audio encoders.
        encoder: the avatar's own, as served; None for the shared one.

    Raises:
        SourceError: INT8 spoils the network.
    """
    sample = home.read_sample()
    features = speech_features(repository, sample, encoder or SHARED_ENCODER)
    served = features if encoder else speech_features(repository, sample, INT8_ENCODER)
    examples = list(network_inputs(crops, features, source.mask, CALIBRATION))
    with notes.status(f"quantising {source.id} on {CALIBRATION} frames"):
        exact, rough = (list(network_inputs(crops[::-1], x, source.mask, COMPARED)) for x in (features, served))
        small, psnr, kept = quantize_within(network, examples, lambda int8: mouth_psnr((network, exact), (int8, rough)))
    layers = f", with {kept} layers in FP32" if kept else ""
    note(f"{source.id}: INT8 mouths are {psnr:.1f} dB from FP32{layers}")
    if psnr < LEAST_DB:
        raise SourceError(f"{source.id}: INT8 spoils this network ({psnr:.1f} dB): use the preset medium or exact")
    return small
