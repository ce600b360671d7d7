"""The whole pipeline in one process, without a server, on the very files that the server serves.

    for frame in LocalPipeline().render(speech): ...

Speech goes through the stages' own modules and the networks as their config.pbtxt asks for them, cut into requests as
the client cuts it. So this is what the server's answers are compared with: its pictures, and the time they cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from lipsync_composite.assets import key_name
from lipsync_composite.frame_request import Avatars
from lipsync_mel import mel, timeline
from lipsync_onnx.batch import run_in_parts
from lipsync_onnx.engines import open_fastest
from lipsync_server import home

Picture = NDArray[np.uint8]
SILENCE_AFTER = np.zeros(timeline.SAMPLES_AFTER, np.float32)  # appended by clients: every frame has real look-ahead


class Frame(NamedTuple):
    """One frame of a speech."""

    position: int  # in the avatar's looped footage
    mouth: Picture  # the network's picture, BGR [320,320,3]
    jpeg: bytes


class LocalPipeline:
    """A built model repository, opened for one avatar.

    Args:
        repository: a built one; the default repository if absent.
        avatar: its id.
        gpu_configs: `cuda` or `tensorrt`, as in server.yaml.
        packed: a folder with the avatar's own models, as `repository.package.write_packed` leaves them, if they are not
            in the repository; the shared stages are taken from there all the same.

    Attributes:
        key: hash of the packed avatar.
        avatar: composite's view of it: `facts`, `render`, `composited`.
        folder: its packed assets.

    Raises:
        ValueError, FileNotFoundError: no such avatar, or the repository is not built.
    """

    def __init__(
        self,
        repository: Path | None = None,
        avatar: str = "demo",
        gpu_configs: str | None = None,
        *,
        packed: Path | None = None,
    ) -> None:
        repository = repository or home.repository()
        own = packed or repository
        folder = _network_of(own, avatar)
        self._filterbank = mel.load_filterbank()
        ensemble = _config(own / ("lipsync_ensemble" if folder.name == "lipsync" else avatar))
        steps = ensemble["ensemble_scheduling"]["step"]
        encoder = next(step["model_name"] for step in steps if "audio_features" in step["output_map"])
        self._encoder = _Network((own if (own / encoder).is_dir() else repository) / encoder, gpu_configs)
        self._unet = _Network(folder, gpu_configs)
        nothing = np.zeros((1, 32, 16, 16), np.float32)
        first = self._unet(audio_features=nothing, footage_position=np.zeros((1, 1), np.int64))
        self.key = int(first["avatar_key"].item())
        self.avatar = Avatars(own).get(self.key)
        self.folder = next(own.glob(f"*/avatar/{key_name(self.key)}"))

    def render(
        self, speech: NDArray[np.float32], footage_start: int = 0, chunk: int = timeline.MAX_FRAMES
    ) -> Iterator[Frame]:
        """The frames of a speech, ceil(n / 640) of them.

        Args:
            speech: FP32 [n], 16 kHz mono.
            footage_start: position in the avatar's looped footage of the first frame.
            chunk: frames in one request, 1 to 32. The pictures do not depend on it.
        """
        for position, mouth in self.mouths(speech, footage_start, chunk):
            yield Frame(position, mouth, self.avatar.render(position, mouth))

    def mouths(
        self, speech: NDArray[np.float32], footage_start: int = 0, chunk: int = timeline.MAX_FRAMES
    ) -> Iterator[tuple[int, Picture]]:
        """As `render`, without composite's work: position in the footage, and the network's picture."""
        if not 1 <= chunk <= timeline.MAX_FRAMES:
            raise ValueError(f"chunk is {chunk}: it must be from 1 to {timeline.MAX_FRAMES}")
        whole = np.concatenate([speech, SILENCE_AFTER])
        frames = timeline.frame_total(len(speech))
        for first in range(0, frames, chunk):
            count = min(chunk, frames - first)
            positions = footage_start + first + np.arange(count, dtype=np.int64)
            outputs = self._unet(audio_features=self.features(whole, first, count), footage_position=positions[:, None])
            yield from zip(positions.tolist(), outputs["mouth"], strict=True)

    def features(self, speech: NDArray[np.float32], first: int, count: int) -> NDArray[np.float32]:
        """The audio features of frames, from the slice of the speech that the client sends for them.

        Args:
            speech: FP32 [n], 16 kHz mono, with the look-ahead of the last frame.
            first, count: which frames.

        Returns:
            FP32 [count,32,16,16].
        """
        begin, end = timeline.samples_needed(first, count)
        starts, inside = timeline.row_windows(first, count, None)
        windows = mel.encoder_windows(self._filterbank, speech[begin:end], begin, None, starts, inside)
        mask = inside.astype(np.float32)[:, None]
        return self._encoder(mel_windows=windows, window_mask=mask)["audio_features"]


class _Network:
    """A model of the repository, run as its config asks, like the pip-only server's backend does."""

    def __init__(self, folder: Path, gpu_configs: str | None) -> None:
        config = _config(folder, gpu_configs)
        kind = "GPU" if "CUDAExecutionProvider" in ort.get_available_providers() else "CPU"
        (path,) = folder.glob(f"[0-9]*/{config.get('default_model_filename', 'model.onnx')}")
        self._network = open_fastest(config, path, kind, 0)
        self._outputs = [tensor["name"] for tensor in config["output"] if tensor["name"] != "embedding"]

    def __call__(self, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        def run(part: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return dict(zip(self._outputs, self._network.run(self._outputs, part), strict=True))

        return run_in_parts(run, inputs, self._network.pool)


def _network_of(repository: Path, avatar: str) -> Path:
    """The folder of an avatar's network: `<avatar>_lipsync`, or `lipsync`, the shipped one."""
    for folder in (repository / f"{avatar}_lipsync", repository / "lipsync"):
        if (folder / "config.pbtxt").is_file():
            config = _config(folder)
            if config["parameters"]["avatar_id"]["string_value"] == avatar:
                return folder
    raise ValueError(f"avatar {avatar!r} is not in {repository}: build or pack it first")


def _config(folder: Path, gpu_configs: str | None = None) -> dict[str, Any]:
    """A model's config, with the names and values that Triton hands to its backends."""
    path = folder / "configs" / f"{gpu_configs}.pbtxt" if gpu_configs else folder / "config.pbtxt"
    message = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    return {"max_batch_size": 0} | json_format.MessageToDict(message, preserving_proto_field_name=True)
