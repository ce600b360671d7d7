"""Paths that Triton can start its Python stages with.

Triton puts the paths of models and backends on a shell's command line without quotes, and a stage's Python takes them
for ASCII. So a space ends the stage before it can say why, and an umlaut is an encoding error.
"""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from lipsync_server.serving.errors import ServingError
from lipsync_server.serving.leftovers import SHARED_MEMORY

logger = logging.getLogger(__name__)


def safe_paths(server: str, **paths: Path) -> dict[str, Path]:
    """Each path itself where Triton can take it, else a link to it; the log says which.

    Args:
        server: prefix of the server's shared memory. The links lie beside that and are swept with it.
        paths: absolute ones, by the names that their links get.

    Raises:
        ServingError: a link cannot be made.
    """
    links = {
        name: SHARED_MEMORY / f"{server}{name}"
        for name, path in paths.items()
        if shlex.quote(str(path)) != str(path)  # not ASCII, or something that a shell reads in a way of its own
    }
    for name, link in links.items():
        try:
            link.symlink_to(paths[name])
        except OSError as error:
            raise ServingError(
                f"Triton cannot take the path {paths[name]}, and the link {link} to it cannot be made "
                f"({error.strerror}): move it to a path of ASCII letters and digits, without spaces."
            ) from None
    if links:
        served = ", ".join(f"{link} for {paths[name]}" for name, link in links.items())
        logger.warning("Triton can take no path with spaces or letters beyond ASCII. It gets links: %s.", served)
    return paths | links
