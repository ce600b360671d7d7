"""`lipsync gpu-models`: the networks of a model repository in FP16, and configs for NVIDIA GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.console import note
from lipsync_client.errors import LipsyncError
from lipsync_server import home


def gpu_models(
    repository: Annotated[
        Path | None, typer.Option(help="The model repository. [default: the one of `lipsync serve`]")
    ] = None,
) -> None:
    """Make FP16 versions of the networks for NVIDIA GPUs, and configs for CUDA and TensorRT that use them.

    Run it again after avatars were packed or added. To use the configs, set `gpu_configs` in server.yaml.
    """
    from lipsync_server.repository.gpu import write_gpu_models

    repository = repository or home.repository()
    names = write_gpu_models(repository)
    if not names:
        raise LipsyncError(f"{repository} holds no networks: run `lipsync build`.")
    note(f"configs cuda, tensorrt and plain: {', '.join(names)}")
