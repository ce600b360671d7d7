"""Tasks that belong together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["first_to_end"]


async def first_to_end(*work: Coroutine[Any, Any, None]) -> None:
    """Run them all until the first one ends, and raise what it raised. The others are cancelled."""
    tasks = [asyncio.create_task(some) for some in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
