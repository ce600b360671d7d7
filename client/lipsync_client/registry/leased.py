"""A registry for programs without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager

from lipsync_client.registry.registry import Registry

__all__ = ["leased"]


@contextmanager
def leased(avatar: str, registry: Registry) -> Iterator[None]:
    """For programs without an event loop: one lease of a registry that nothing else is done with; it is closed then."""

    @asynccontextmanager
    async def alone() -> AsyncIterator[None]:
        try:
            async with registry.lease(avatar):
                yield
        finally:
            await registry.close()

    with closing(asyncio.new_event_loop()) as loop:
        lease = alone()
        entering = loop.create_task(lease.__aenter__())  # type: ignore[arg-type]
        try:
            loop.run_until_complete(entering)
        except BaseException:  # Ctrl-C too
            entering.cancel()
            loop.run_until_complete(asyncio.wait([entering]))
            raise
        try:
            yield
        finally:
            loop.run_until_complete(lease.__aexit__(None, None, None))
