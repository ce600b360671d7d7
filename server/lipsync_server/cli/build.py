"""`lipsync build`: makes the served models from their sources."""

from __future__ import annotations


def build() -> None:
    """Make the ONNX models and the packed demo avatar, where a source has changed. `serve` and `demo` do it too."""
    from lipsync_server.repository import build as repository

    repository.build()
