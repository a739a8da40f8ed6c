"""A load balancer for tests: one address that leads to the first gateway that answers. It can cut all connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from pollcast.services.process.addresses import HostPort, split_host_port


class Balancer:
    """A TCP proxy that listens on `address` (`host:port`)."""

    def __init__(self, gateways: Sequence[HostPort]) -> None:
        self.gateways = list(gateways)
        self.address: HostPort = ""
        self.connections = 0  # number of connections accepted so far
        self._open: set[asyncio.StreamWriter] = set()
        self._silent: set[asyncio.StreamWriter] = set()
        self._closed = False
        self._served: set[asyncio.Task[object]] = set()
        self.refuses_upgrades = False  # as proxies do that know no WebSockets

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, gateways: Sequence[HostPort]) -> AsyncIterator[Balancer]:
        """Run a balancer, and cut all of its connections on leaving."""
        balancer = cls(gateways)
        server = await asyncio.start_server(balancer._serve, "127.0.0.1", 0)
        balancer.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield balancer
            balancer._closed = True
            balancer.cut()
            server.close()
            await server.wait_closed()
            await asyncio.sleep(0)  # connections that were just accepted begin to be served, and find it closed
            await asyncio.gather(*balancer._served)

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://{self.address}"

    def silence(self) -> None:
        """All connections stay open, but nothing passes on them any more; new ones work."""
        self._silent.update(self._open)

    def cut(self) -> None:
        """Abort all connections. New ones are accepted."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        there = None
        try:
            begun = await self._begun(reader) if self.refuses_upgrades and not self._closed else b""
            if not self._closed and b"upgrade: websocket" not in begun.lower():
                there = await self._reach()
            if there is not None and not self._closed:
                there[1].write(begun)
                self._open.add(there[1])
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._copy(reader, there[1]))
                    tasks.create_task(self._copy(there[0], writer))
        finally:
            self._served.discard(task)
            for each in (writer, there[1]) if there is not None else (writer,):
                self._open.discard(each)
                each.transport.abort()

    async def _begun(self, reader: asyncio.StreamReader) -> bytes:
        """Return the head of a connection's first request; nothing when the client is gone before."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            return await reader.readuntil(b"\r\n\r\n")
        return b""

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Connect to the first gateway that answers; return None when none does."""
        for gateway in self.gateways:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(*split_host_port(gateway))
        return None

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one side ends, which ends the other."""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if writer not in self._silent:
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort() if reader.exception() else writer.close()
