"""An address that leads to a server until it is cut."""

from __future__ import annotations

import asyncio
import contextlib


class Relay:
    """An address that leads to a server until it is cut."""

    def __init__(self, url: str) -> None:
        self._host, _, self._port = url.rpartition(":")
        self._ends: list[asyncio.StreamWriter] = []

    async def open(self, port: int = 0) -> str:
        self._listening = await asyncio.start_server(self._connect, "127.0.0.1", port)
        return f"127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        self._listening.close()
        for end in self._ends:
            end.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, int(self._port))
        self._ends += [writer, back]
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
