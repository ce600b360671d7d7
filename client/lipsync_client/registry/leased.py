"""A lease for programs that have no event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager

from lipsync_client.registry.registry import Registry

__all__ = ["leased"]


@contextmanager
def leased(avatar: str, registry: Registry) -> Iterator[None]:
    """Hold one lease of an avatar during the block. The registry has no other user and is closed with the block."""

    @asynccontextmanager
    async def alone() -> AsyncIterator[None]:
        try:
            async with registry.lease(avatar):
                yield
        finally:
            await registry.close()

    with closing(asyncio.new_event_loop()) as loop:
        lease = alone()
        entering = loop.create_task(lease.__aenter__())
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
