"""`import lipsync_client` costs next to nothing; a name brings what it needs when it is first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lipsync_client

HEAVY = ("av", "PIL", "asyncio", "google.protobuf", "grpc", "numpy", "pydantic", "scipy", "tritonclient", "yaml")


def imported_by(statement: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has imported after a statement."""
    script = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return {name for name in HEAVY if name in output.split()}


@pytest.mark.parametrize(
    ("statement", "brought"),
    [
        ("import lipsync_client", set()),
        ("from lipsync_client import LipsyncError", set()),
        ("from lipsync_client import Timeline", {"numpy"}),
        ("from lipsync_client import wire", {"numpy"}),
        ("from lipsync_mel import refusals", set()),
    ],
)
def test_what_is_light_stays_light(statement: str, brought: set[str]) -> None:
    assert imported_by(statement) == brought


def test_a_client_needs_neither_ffmpeg_nor_pictures() -> None:
    assert not imported_by("from lipsync_client import AsyncClient, Client, Control") & {"av", "PIL", "yaml", "scipy"}


def test_every_public_name_is_there() -> None:
    assert all(getattr(lipsync_client, name).__name__ == name for name in lipsync_client.__all__)
    assert dir(lipsync_client) == sorted(lipsync_client.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        lipsync_client.Klient  # noqa: B018
