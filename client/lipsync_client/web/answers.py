"""Answers of the HTTP interface other than success: who may ask, and what went wrong."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from lipsync_client.errors import AvatarNotFound, LipsyncError, Overloaded, ServerUnavailable, Timeout
from lipsync_client.web.settings import Settings
from lipsync_client.web.videos import Busy

__all__ = ["Guarded", "Refusal", "body_of", "guarded", "json_object"]

RETRY = {"Retry-After": "5"}


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, reason: str, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.reason, self.headers = status, reason, headers


class Guarded:
    """Endpoints that ask for the token of `settings`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def check_token(self, request: Request) -> None:
        """Raises Refusal."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        wanted = self._settings.token
        if wanted is None:
            return
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), wanted.encode()):
            text = (
                "The token is missing or wrong: send the one that `lipsync web` shows, as `Authorization: Bearer ..`."
            )
            raise Refusal(401, "token", text, {"WWW-Authenticate": "Bearer"})


Some = TypeVar("Some", bound=Guarded)


def guarded(
    endpoint: Callable[[Some, Request], Awaitable[Response]],
) -> Callable[[Some, Request], Awaitable[Response]]:
    """Ask for the token, and turn what went wrong into an answer."""

    @wraps(endpoint)
    async def answer(site: Some, request: Request) -> Response:
        try:
            site.check_token(request)
            return await endpoint(site, request)
        except Exception as error:
            refusal = _refusal_of(error)
            if refusal is None:
                raise
            body = {"reason": refusal.reason, "text": str(refusal)}
            return JSONResponse(body, refusal.status, headers=refusal.headers)

    return answer


async def body_of(request: Request, limit: int) -> bytes:
    """A request's body. Raises Refusal if it has more bytes."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise Refusal(413, "too_much", f"The request has more than {limit} bytes.")
    return bytes(body)


def json_object(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(400, "bad_request", "The body is not valid JSON.") from None
    if not isinstance(values, dict):
        raise Refusal(400, "bad_request", "The body must be a JSON object with a `text`.")
    return values


def _refusal_of(error: Exception) -> Refusal | None:
    """The answer to an error that is expected."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ClientDisconnect):
        return Refusal(400, "gone", "The caller has gone.")
    if isinstance(error, (Busy, Overloaded)):
        return Refusal(503, "full", str(error), RETRY)
    if isinstance(error, (ServerUnavailable, Timeout)):
        return Refusal(503, "failed", str(error), RETRY)
    if isinstance(error, AvatarNotFound):
        return Refusal(404, "not_found", str(error))
    if isinstance(error, LipsyncError):
        return Refusal(422, "failed", str(error))
    return None
