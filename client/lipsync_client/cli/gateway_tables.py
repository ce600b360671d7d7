"""Tables of what a gateway says of itself, as `Control.gateway` gives it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.markup import escape
from rich.table import Table

__all__ = ["gateway_line", "gateway_tables"]

GIB = 2.0**30


def gateway_line(status: dict[str, Any]) -> str:
    """The gateway's version and what it works on."""
    return f"gateway {status['version']}, {status['open_requests']} open requests"


def gateway_tables(status: dict[str, Any]) -> list[Table]:
    """The upstreams, and what is known of the programs, their stages, the avatars and the GPUs."""
    now = datetime.fromisoformat(status["time"])
    tables = [_upstreams(status["upstreams"], now)]
    if supervisor := status["supervisor"]:
        tables += [_programs(supervisor, now), _stages(supervisor["stages"])]
    if status["avatars"]:
        tables.append(_avatars(status["avatars"], now))
    if status["gpus"]:
        tables.append(_gpus(status["gpus"]))
    return tables


def _upstreams(upstreams: list[dict[str, Any]], now: datetime) -> Table:
    table = Table("upstream", "state", "open requests", "last frame", "last probe", "trouble", box=None)
    for one in upstreams:
        state = "ready" if one["ready"] else "not ready"
        moments = (_ago(one[name], now) for name in ("last_frame", "last_probe"))
        table.add_row(one["address"], state, str(one["open_requests"]), *moments, escape(one["trouble"]))
    return table


def _programs(supervisor: dict[str, Any], now: datetime) -> Table:
    table = Table("program", "state", "since", "restarts", "last end", box=None)
    for name in ("triton", "gateway"):
        one = supervisor[name]
        state, end = one["state"], one["last_end"]
        if one["next_start"]:
            left = (datetime.fromisoformat(one["next_start"]) - now).total_seconds()
            state = f"waiting, {max(left, 0.0):.0f} s more"
        told = f"{_ago(end['time'], now)}: {end['reason']}" if end else ""
        table.add_row(name, state, _ago(one["since"], now), str(one["restarts"]), escape(told))
    return table


def _stages(stages: list[dict[str, Any]]) -> Table:
    table = Table("stage", "processes", "unexpected ends", box=None)
    for one in stages:
        table.add_row(escape(one["model"]), str(one["processes"]), str(one["ends"]))
    return table


def _avatars(avatars: list[dict[str, Any]], now: datetime) -> Table:
    table = Table("avatar", "state", "device", "MiB", "requests", "last used", box=None)
    for one in avatars:
        cells = ["not loaded"]
        if one["loaded"]:
            device = "CPU" if one["gpu"] is None else f"GPU {one['gpu']}"
            memory = "?" if one["memory_mb"] is None else str(one["memory_mb"])
            cells = ["loaded", device, memory, str(one["requests"]), _ago(one["last_used"], now)]
        table.add_row(escape(one["id"]), *cells)
    return table


def _gpus(gpus: list[dict[str, Any]]) -> Table:
    table = Table("GPU", "used", "memory in use", box=None)
    for one in gpus:
        used, total = one["memory_used_bytes"] / GIB, one["memory_total_bytes"] / GIB
        table.add_row(escape(one["uuid"]), f"{one['utilization']:.0%}", f"{used:.1f} of {total:.1f} GiB")
    return table


def _ago(moment: str | None, now: datetime) -> str:
    if moment is None:
        return "never"
    seconds = max((now - datetime.fromisoformat(moment)).total_seconds(), 0.0)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
