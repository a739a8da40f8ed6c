"""A TCP proxy that cuts connections after a number of bytes from the server, or lets nothing pass."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class CuttingProxy:
    """A proxy on a port of its own, made by `CuttingProxy.serving`."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._left: int | None = None
        self._again = False
        self._passing = asyncio.Event()
        self._passing.set()
        self.address = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def serving(cls, target: str) -> AsyncIterator[CuttingProxy]:
        """Serve within a scope, at `address`."""
        proxy = cls(target)
        async with asyncio.TaskGroup() as tasks:
            running: set[asyncio.Task[None]] = set()

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = tasks.create_task(proxy._connection(reader, writer))
                running.add(task)
                task.add_done_callback(running.discard)

            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                yield proxy
            finally:
                server.close()
                for task in list(running):
                    task.cancel()

    def cut_after(self, count: int | None, *, again: bool = False) -> None:
        """Cut a connection once this many further bytes from the server have passed; None: cut none.

        With `again` all others are cut at once after that.
        """
        self._left, self._again = count, again

    def let_pass(self, passing: bool) -> None:
        """Let bytes pass, or hold them back as a frozen server or an unplugged cable does; connections stay open."""
        if passing:
            self._passing.set()
        else:
            self._passing.clear()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._target)

        async def to_server() -> None:
            while data := await reader.read(65536):
                await self._passing.wait()
                up_writer.write(data)
                await up_writer.drain()

        async def to_client() -> None:
            while data := await up_reader.read(65536):
                await self._passing.wait()
                if self._left is not None:
                    data = data[: self._left]
                    self._left -= len(data)
                writer.write(data)
                await writer.drain()
                if self._left == 0:
                    self._left = 0 if self._again else None
                    return

        both = {asyncio.create_task(to_server()), asyncio.create_task(to_client())}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for each in (writer, up_writer):
                each.transport.abort()
