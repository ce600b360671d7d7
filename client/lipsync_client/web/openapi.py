"""The description of the HTTP interface, in OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from lipsync_client.media.growing import GROWING
from lipsync_client.web.settings import Settings

__all__ = ["describe"]

TEXT = {"type": "string"}
FORMAT = {"type": "string", "enum": list(GROWING), "default": "mp4"}
PROBLEM = {
    "type": "object",
    "required": ["reason", "text"],
    "properties": {"reason": TEXT, "text": {"type": "string", "description": "a sentence for a person"}},
}
PROGRESS = {
    "type": "object",
    "properties": {
        "id": TEXT,
        "frames": {"type": "integer", "description": "frames made so far"},
        "of": {"type": "integer", "description": "frames of the whole video"},
        "state": {"type": "string", "enum": ["working", "done", "failed", "abandoned"]},
        "text": {"type": "string", "description": "why it failed"},
    },
}


def describe(settings: Settings) -> dict[str, Any]:
    """The whole description, with the limits of a server."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lip-sync", "version": "1", "description": "Speech in, a video of a talking face out."},
        "paths": {
            "/v1/avatars": {"get": _answer("The avatars to choose from; the first one is the default", "avatars")},
            "/v1/voices": {"get": _answer("The voices that speak text, in order of preference", "voices")},
            "/v1/videos": {"post": _make(settings)},
            "/v1/videos/{name}": {
                "get": {
                    "summary": "How far a video is",
                    "parameters": [{"name": "name", "in": "path", "required": True, "schema": TEXT}],
                    "responses": {"200": _content("its progress", PROGRESS), **_problems("401", "404")},
                }
            },
            "/v1/openapi.json": {
                "get": {"summary": "This description", "security": [], "responses": {"200": {"description": "OpenAPI"}}}
            },
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}] if settings.token else [],
    }


def _make(settings: Settings) -> dict[str, Any]:
    spoken = {
        "type": "object",
        "required": ["text"],
        "additionalProperties": False,
        "properties": {
            "text": {"type": "string", "minLength": 1, "maxLength": settings.text_chars},
            "avatar": TEXT,
            "format": FORMAT,
            "voice": {"type": "string", "description": "a name of /v1/voices; by default, the first one that can"},
            "language": {"type": "string", "description": "such as de or pt-br; by default, what the script tells"},
        },
    }
    sound = {"type": "string", "format": "binary", "description": f"at most {settings.upload_bytes} bytes"}
    headers = {
        "Location": {"description": "where its progress is told", "schema": TEXT},
        "Lipsync-Frames": {"description": "frames of the whole video", "schema": {"type": "integer"}},
    }
    video = {
        "description": f"the video, as it is made; at most {settings.video_s:g} s. It is marked as made by AI",
        "headers": headers,
        "content": {kind: {} for kind in GROWING.values()},
    }
    return {
        "summary": "Make a video of a text (JSON) or a sound file",
        "parameters": [
            {"name": "avatar", "in": "query", "description": "for a sound file", "schema": TEXT},
            {"name": "format", "in": "query", "description": "for a sound file", "schema": FORMAT},
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": spoken},
                "audio/*": {"schema": sound},
                "video/*": {"schema": sound},
            },
        },
        "responses": {"200": video, **_problems("400", "401", "404", "408", "413", "415", "422", "503")},
    }


def _answer(summary: str, key: str) -> dict[str, Any]:
    items = {"type": "object", "properties": {"id" if key == "avatars" else "name": TEXT}}
    schema = {"type": "object", "properties": {key: {"type": "array", "items": items}}}
    return {"summary": summary, "responses": {"200": _content("a list", schema), **_problems("401")}}


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problems(*statuses: str) -> dict[str, Any]:
    return {status: _content("why not", PROBLEM) for status in statuses}
