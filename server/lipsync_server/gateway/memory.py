"""Memory that large requests needed goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from pathlib import Path

__all__ = ["give_back"]

LOOK_S, LONGEST_S = 2.0, 30.0
GROWN = 64 << 20  # bytes


async def give_back() -> None:
    """Whenever the process has grown, free what is in circles and give back what was freed; for ever.

    The garbage collector counts objects, not bytes, so a few failed requests of 120 MB would wait for it for long. And
    glibc keeps freed memory that lies between pieces in use: hundreds of MB after such requests. Other C libraries have
    no `malloc_trim`, and may keep it.
    """
    gc.freeze()  # what was made at the start stays: collecting then takes a millisecond
    trim = getattr(ctypes.CDLL(None), "malloc_trim", int)
    least, wait = _resident(), LOOK_S
    while True:
        await asyncio.sleep(wait)
        if _resident() > least + GROWN:
            gc.collect()
            await asyncio.to_thread(trim, 0)
        now = _resident()
        wait = min(2 * wait, LONGEST_S) if now > least + GROWN else LOOK_S  # what is in use is looked at seldom
        least = min(least, now)


def _resident() -> int:
    """Bytes of this process in main memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
