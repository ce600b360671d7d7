"""The secret that opens the calls which can change or spy on the server."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
from pathlib import Path

from lipsync_client.folders import cache_folder, cached
from lipsync_server.serving.errors import ServingError
from lipsync_server.serving.server_settings import ServerConfig

HEADER = "lipsync-control"
INFERENCE_HEADER = "lipsync-inference"  # of a Triton that only its gateway may ask
RESTRICTED = "model-repository,shared-memory,trace,logging"
USABLE = re.compile(r"[A-Za-z0-9_.-]{16,256}")  # survives an HTTP header and a command line


def control_key(config: ServerConfig) -> str:
    """The key from the environment, else from the private file, which is made on first use.

    Raises:
        ServingError: the file is readable by others, or the key is too short or has odd characters.
    """
    given = os.environ.get(config.control_key_env)
    if given:
        return _usable(given, f"the environment variable {config.control_key_env}")
    if config.control_key_file:
        path = Path(os.path.expanduser(config.control_key_file))  # noqa: PTH111 - which fails for users without a home
    else:
        path = cached("control.key") or cache_folder() / "control.key"
    try:
        _make_private(path)
    except OSError as error:
        raise ServingError(f"The control key file {path} cannot be made: {error.strerror}.") from None
    return _read_private(path)


def _make_private(path: Path) -> None:
    """Make the file with a new key unless it exists; servers that start together then read the same whole key."""
    if path.exists():
        return
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".control.key-")  # mode 0600
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    Path(draft).unlink()


def _read_private(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ServingError(f"The control key file {path} cannot be read: {error}.") from None
    if mode & 0o077:
        raise ServingError(
            f"The control key file {path} has mode {mode & 0o777:04o}, so others may read it: `chmod 600 {path}`, "
            "and delete it first if anyone may have seen it (a new one is made)."
        )
    return _usable(text.strip(), f"the control key file {path}")


def _usable(key: str, source: str) -> str:
    if not USABLE.fullmatch(key):
        raise ServingError(f"The key in {source} must be 16 to 256 characters out of letters, digits and _ . -")
    return key


def hide_in_process_list(pid: int, secret: str) -> bool:
    """Blank the secret in a process's argument list, where every user of the machine could read it.

    Triton takes the key on its command line only. Returns whether it can no longer be seen there.
    """
    process = Path(f"/proc/{pid}")
    try:
        arguments = (process / "cmdline").read_bytes()
        # proc(5), stat: field 48 (arg_start); the second field, in brackets, may hold spaces
        start = int((process / "stat").read_text().rpartition(")")[2].split()[45])
        with (process / "mem").open("r+b", buffering=0) as memory:
            for match in re.finditer(re.escape(secret.encode()), arguments):
                memory.seek(start + match.start())
                memory.write(b"*" * len(secret))
        return secret.encode() not in (process / "cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return False
