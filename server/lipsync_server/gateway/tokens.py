"""Bearer tokens: who may call from other machines, and how much. Only hashes of tokens are stored."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import grpc
from pydantic import AfterValidator, Field, StrictFloat, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

from lipsync_client.folders import data_folder
from lipsync_client.settings import CHECKED, SettingsError, checked, read_yaml
from lipsync_mel import refusals
from lipsync_server.gateway.live_sessions import LiveSessions
from lipsync_server.gateway.refusal import Refused

__all__ = ["Token", "Tokens", "caller_of", "default_file", "new_token", "token_name"]

logger = logging.getLogger(__name__)

PREFIX = "lipsync_"  # lets scanners of repositories and logs find a token that leaked
HASH = re.compile(r"[0-9a-f]{64}")
LOOK_S = 1.0  # the file is looked at again after so long
BURST_S, SMALLEST_BURST = 4.0, 64  # frames that a token may take at once: of so many seconds, but never fewer


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


@dataclass(frozen=True, config=CHECKED)
class Token:
    """One who may call.

    Attributes:
        name: whom the token was given to.
        sha256: hash of the token, in hexadecimal.
        expires: when it ends, as UTC where no zone is stated; None: never.
        max_open: requests that are open at once; None: as the gateway's `max_open_per_caller`.
        live_sessions: live sessions that talk at once; None: no limit.
        frames_per_s: frames a second, in the long run; a live session takes 25. None: no limit.
    """

    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = Field(
        description="1 to 64 letters, digits and _ . -"
    )
    sha256: StrictStr = Field(description="64 hexadecimal digits")
    expires: Annotated[datetime, AfterValidator(_aware)] | None = Field(
        default=None, description="a date such as 2027-01-31, or null"
    )
    max_open: Annotated[StrictInt, Field(ge=1)] | None = Field(default=None, description="a whole number from 1 up")
    live_sessions: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None, description="a whole number from 1 up"
    )
    frames_per_s: Annotated[StrictInt | StrictFloat, Field(gt=0)] | None = Field(
        default=None, description="a number above 0"
    )


_token: ContextVar[Token | None] = ContextVar("token", default=None)  # of the request that is worked on
_session: ContextVar[str] = ContextVar("session", default="")


def caller_of(host: str) -> str:
    """Who is counted for the request that is worked on: its token, else its host."""
    token = _token.get()
    return f"token {token.name}" if token else host


def token_name() -> str:
    """The name of the token of the request that is worked on; "": it has none."""
    token = _token.get()
    return token.name if token else ""


def default_file() -> Path:
    """The tokens of this user's gateways."""
    return data_folder() / "tokens.yaml"


class Tokens:
    """The tokens of a file, which is read again when it changes. Without the file there are none.

    Callers on this machine need none. Everybody else does; a token that is given must be right.

    Args:
        path: the file.
        now: monotonic, in seconds, for limits.
        date: seconds since 1970, for expiry.

    Raises:
        SettingsError: the file cannot be used. Later, the last good content stays in force.
    """

    def __init__(
        self, path: Path, now: Callable[[], float] = time.monotonic, date: Callable[[], float] = time.time
    ) -> None:
        self._path, self._now, self._date = path, now, date
        self._open: Counter[str] = Counter()
        self._sessions = LiveSessions(now)
        self._buckets: dict[str, tuple[float, float]] = {}  # frames left, and when that was so
        self._looked = now()
        self._mark = _mark(path)
        self._tokens = read_tokens(path)

    def identify(self, authorization: str | None, host: str, session: str | None = None) -> None:
        """Find out who sends the request that is worked on.

        Args:
            authorization: the header.
            host: the caller's address.
            session: the header `SESSION_HEADER`.

        Raises:
            Refused: the token is missing, unknown or expired.
        """
        _token.set(None)
        _session.set(session or "")
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            _token.set(self._found(given.strip()))
        elif not _is_local(host):
            raise _denied("callers on other machines need a token, in the header `authorization: Bearer TOKEN`")

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """An inference request of the caller is open while the block runs. Raises Refused beyond its limits."""
        token = _token.get()
        if token is None:
            yield
            return
        if token.max_open is not None and self._open[token.name] >= token.max_open:
            raise _limited(f"{token.max_open} requests of this token are open, which is all that it may have")
        if token.frames_per_s is not None and self._left(token, token.frames_per_s) < 1:
            raise _limited(f"this token has taken its {token.frames_per_s:g} frames a second")
        if token.live_sessions and not self._sessions.admit(token.name, _session.get(), token.live_sessions):
            raise _limited(f"{token.live_sessions} live sessions of this token talk, which is all that it may have")
        self._open[token.name] += 1
        try:
            yield
        finally:
            self._open[token.name] -= 1

    def spent(self, frames: int) -> None:
        """The caller has got so many frames."""
        token = _token.get()
        if token is not None and token.frames_per_s is not None:
            self._buckets[token.name] = self._left(token, token.frames_per_s) - frames, self._now()

    def _left(self, token: Token, rate: float) -> float:
        """Frames that it may take now. Below 0 after a request that took more, which is then waited off."""
        most = max(rate * BURST_S, SMALLEST_BURST)
        left, then = self._buckets.get(token.name, (most, self._now()))
        return min(most, left + rate * (self._now() - then))

    def _found(self, given: str) -> Token:
        self._look_again()
        digest, found = _hash(given), None
        for token in self._tokens:  # all of them, so that the time tells nothing
            if hmac.compare_digest(token.sha256, digest):
                found = token
        if found is None:
            raise _denied("this token is not known here")
        if found.expires is not None and found.expires.timestamp() <= self._date():
            raise _denied(f"this token ended at {found.expires:%Y-%m-%d %H:%M} UTC")
        return found

    def _look_again(self) -> None:
        if self._now() - self._looked < LOOK_S:
            return
        self._looked = self._now()
        if (mark := _mark(self._path)) != self._mark:
            self._mark = mark
            try:
                self._tokens = read_tokens(self._path)
            except SettingsError as error:
                logger.error("The tokens are as before: %s", error)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file; none if there is no file. Raises SettingsError."""
    values = read_yaml(path) if path.exists() else []
    if values == {}:  # an empty file
        values = []
    if not isinstance(values, list):
        raise SettingsError(f"{path} must be a list of tokens: `lipsync token new NAME` adds one.")
    for number, value in enumerate(values, 1):  # told without the value, which may be a token instead of its hash
        if not isinstance(value, dict) or not HASH.fullmatch(str(value.get("sha256"))):
            raise SettingsError(f"{path}: entry {number} has no sha256 of 64 hexadecimal digits.")
    try:
        tokens = tuple(checked(Token, value, "token") for value in values)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    if twice := [name for name, count in Counter(token.name for token in tokens).items() if count > 1]:
        raise SettingsError(f"{path}: the name {twice[0]} is there more than once.")
    return tokens


def new_token(path: Path, name: str, **limits: Any) -> str:
    """Make a token, and add its hash to a file. The token itself is returned, and stored nowhere.

    Raises:
        SettingsError: the name or a limit is not allowed, or the name is in use.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    fields = {
        "name": name,
        "sha256": _hash(secret),
        **{key: value for key, value in limits.items() if value is not None},
    }
    checked(Token, fields, "token")
    if any(token.name == name for token in read_tokens(path)):
        raise SettingsError(f"{path} has a token of the name {name}: remove its entry first, or choose another name.")
    lines = "\n".join(f"  {key}: {json.dumps(value, default=str)}" for key, value in fields.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+") as file:
        ended = file.read()[-1:] in ("", "\n")
        file.write(f"{'' if ended else chr(10)}-{lines[1:]}\n")
    return secret


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()  # tokens are random, so no slow hash is needed


def _mark(path: Path) -> tuple[int, ...]:
    """Another one when the file has changed."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _is_local(host: str) -> bool:
    if host.startswith("unix:"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _denied(sentence: str) -> Refused:
    return Refused(grpc.StatusCode.UNAUTHENTICATED, sentence, "token")


def _limited(sentence: str) -> Refused:
    text = refusals.coded(refusals.OVERLOADED, f"{sentence}: try again soon")
    return Refused(grpc.StatusCode.UNAVAILABLE, text, "caller's limit")
