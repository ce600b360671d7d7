"""`lipsync build`: builds the served models from their sources."""

from __future__ import annotations


def build() -> None:
    """Build the ONNX models and pack the demo avatar, where a source has changed. `serve` and `demo` do it too."""
    from lipsync_server.repository import build as repository

    repository.build()
