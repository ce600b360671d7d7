"""What the gateway says of itself and of what is behind it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import resource
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lipsync_client.errors import LipsyncError
from lipsync_server.gateway.gateway import Gateway
from lipsync_server.gateway.refusal import Refused
from lipsync_server.gateway.upstream import Upstream
from lipsync_server.gateway.upstream_metrics import fetched, gpus_in

__all__ = ["status_of"]

ASK_S = 3.0  # that the servers may take to say which avatars they have
TIMES = ("since", "next_start", "time")


async def status_of(gateway: Gateway) -> dict[str, Any]:
    """The status as plain JSON values. It holds no secret, and no request waits for it.

    Returns:
        A mapping; docs/gateway.md describes it. Parts that nobody can tell are None.
    """
    avatars, trouble = await _avatars(gateway)
    metrics = gateway.settings.upstream_metrics
    gpus = gpus_in(await asyncio.to_thread(fetched, metrics)) if metrics else []
    return {
        "time": _date(time.time()),
        "version": version("lipsync-triton"),
        "ready": gateway.ready,
        "open_files_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "open_requests": gateway.open_requests,
        "open_streams": gateway.streams.open,
        "upstreams": [_upstream(gateway, one) for one in gateway.upstreams.all],
        "supervisor": await asyncio.to_thread(_supervisor, gateway.settings.supervisor_status),
        "gpus": [dataclasses.asdict(gpu) for gpu in gpus],
        "avatars": avatars,
        "avatars_trouble": trouble,
    }


def _upstream(gateway: Gateway, upstream: Upstream) -> dict[str, Any]:
    ready = gateway.upstreams.is_fresh(upstream)
    return {
        "address": upstream.address,
        "ready": ready,
        "open_requests": upstream.open,
        "last_frame": _ago(gateway, upstream.last_frame),
        "last_probe": _ago(gateway, upstream.last_probe),
        "trouble": "" if ready else upstream.trouble or "no frame for a while",
    }


def _ago(gateway: Gateway, moment: float) -> str | None:
    """A moment of the event loop's clock as a date; None: never."""
    return None if math.isinf(moment) else _date(time.time() - (gateway.now() - moment))


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def _supervisor(path: str | None) -> Any:
    """What `lipsync serve` knows of its programs; None: the gateway is alone, or the file cannot be read."""
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), object_hook=_dated)
    except (OSError, ValueError):
        return None


def _dated(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _date(value) if name in TIMES and value is not None else value for name, value in values.items()}


async def _avatars(gateway: Gateway) -> tuple[list[dict[str, Any]] | None, str]:
    """Those that are loaded, with the control key the others too; and why nobody knows them."""
    if not gateway.ready:
        return None, "no server is ready"
    try:
        figures = await asyncio.wait_for(gateway.avatars.figures(), ASK_S)
    except asyncio.TimeoutError:
        return None, f"the servers did not say within {ASK_S:g} s"
    except (Refused, LipsyncError) as error:
        return None, str(error)
    found = [
        {
            "id": one.id,
            "loaded": one.loaded,
            "gpu": one.gpu if one.loaded and one.gpu >= 0 else None,
            "memory_mb": one.memory_mb or None,
            "requests": one.stats.requests if one.stats else 0,
            "last_used": one.stats.last_used.isoformat() if one.stats and one.stats.last_used else None,
        }
        for one in figures
    ]
    return found, ""
