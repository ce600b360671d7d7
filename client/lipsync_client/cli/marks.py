"""Options of the commands that write videos: the mark of synthetic pictures, and a signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipsync_client.errors import LipsyncError
from lipsync_client.media.credentials import Credentials

Unmarked = Annotated[
    bool,
    typer.Option(
        "--unmarked",
        help="Leave out the metadata that says that AI made the video. Then you must tell viewers in another way.",
    ),
]
SignCert = Annotated[
    Path | None,
    typer.Option(help="PEM file with a certificate chain: the video is signed as C2PA defines it.", show_default=False),
]
SignKey = Annotated[Path | None, typer.Option(help="PEM file with the certificate's key.", show_default=False)]
SignTime = Annotated[
    str | None,
    typer.Option(help="Address of a time-stamp server (RFC 3161) that dates the signature.", show_default=False),
]


def credentials(certificate: Path | None, key: Path | None, time_authority: str | None) -> Credentials | None:
    """Those that the options name; None without any. Raises LipsyncError."""
    if certificate and key:
        return Credentials(certificate, key, time_authority)
    if certificate or key or time_authority:
        raise LipsyncError("--sign-cert and --sign-key belong together: give both, or neither.")
    return None
