"""Part `kills`: kill -9 of each process but the supervisor, under two live streams and renderings."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from lipsync_client.console import note
from lipsync_server.reliability.good import GoodCallers, Reference, served_well
from lipsync_server.reliability.stack import Stack, eventually

__all__ = ["kills"]

SECONDS = 180.0  # no wait may last longer
BETWEEN = 60  # frames that the streams show before the next kill


async def kills(stack: Stack, reference: Reference, rounds: int) -> Any:
    """Kill each process in turn.

    Returns:
        plain numbers: for each kill its times, and what the good callers saw in all.
    """
    found = []
    async with served_well(stack.grpc, reference) as seen:
        await _shown(seen, BETWEEN)
        for _ in range(rounds):
            for name in sorted(stack.parts()):
                seen.longest_gap()
                one = await asyncio.to_thread(_kill, stack, name)
                await _shown(seen, BETWEEN)
                found.append(one | {"stood_still_s": seen.longest_gap()})
                note(f"{time.strftime('%H:%M:%S')} kills: {name}: ready again after {one['ready_s']:.1f} s")
    return {"kills": found, "good": seen.result(reference)}


def _kill(stack: Stack, name: str) -> dict[str, Any]:
    """Kill -9, and wait until it says that it is not ready, and then that it is, with another process."""
    pid = stack.parts()[name]
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    unready = eventually(lambda: not stack.ready() or _replaced(stack, name, pid), SECONDS, f"{name}'s end to be seen")
    was_unready = not _replaced(stack, name, pid)
    ready = eventually(lambda: stack.ready() and _replaced(stack, name, pid), SECONDS, f"{name} to be served again")
    return {"name": name, "unready": was_unready, "unready_s": unready - began, "ready_s": ready - began}


def _replaced(stack: Stack, name: str, pid: int) -> bool:
    return stack.parts().get(name, pid) != pid


async def _shown(seen: GoodCallers, frames: int) -> None:
    """Wait until the good callers got so many frames more."""
    before, deadline = sum(seen.shown.values()), time.monotonic() + SECONDS
    while sum(seen.shown.values()) - before < frames:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {frames} frames in {SECONDS:g} s")
        await asyncio.sleep(0.1)
