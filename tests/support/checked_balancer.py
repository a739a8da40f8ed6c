"""A load balancer that asks gateways for their readiness: it sends new connections to those that answered 200 last, or
to any when none did.

A connection that no gateway takes is answered with 503, as proxies do. `tests.support.balancer` is one without checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

Ports = tuple[int, int]
"""The ports of a gateway's HTTP and gRPC."""

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class CheckedBalancer:
    """A running balancer; `http` and `grpc` are its addresses."""

    gateways: Mapping[str, Ports]
    seconds: float  # time between two checks of a gateway
    http: tuple[str, int] = ("", 0)
    grpc: tuple[str, int] = ("", 0)
    up: set[str] = field(default_factory=set)
    _turns: itertools.count[int] = field(default_factory=itertools.count)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, gateways: Mapping[str, Ports], seconds: float) -> AsyncIterator[CheckedBalancer]:
        """Run a balancer, which has checked each gateway once on entry; cut all connections on leaving."""
        balancer = cls(gateways, seconds)
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            addresses = []
            for which in (0, 1):
                server = await asyncio.start_server(balancer._serving(which), "127.0.0.1", 0)
                stack.callback(server.close)
                addresses.append(("127.0.0.1", server.sockets[0].getsockname()[1]))
            balancer.http, balancer.grpc = addresses
            for name in gateways:
                await balancer._check(name)
            checking = [tasks.create_task(balancer._keep_checking(name)) for name in gateways]
            yield balancer
            for task in checking:
                task.cancel()
            for writer in list(balancer._open):
                writer.transport.abort()

    async def _keep_checking(self, name: str) -> None:
        while True:
            await asyncio.sleep(self.seconds)
            await self._check(name)

    async def _check(self, name: str) -> None:
        ready = False
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.gateways[name][0])
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: check\r\nConnection: close\r\n\r\n")
                ready = b" 200 " in await reader.readline()
            finally:
                writer.transport.abort()
        self.up.add(name) if ready else self.up.discard(name)

    def _serving(self, which: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._open.add(writer)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._serve(which, reader, writer)
            self._open.discard(writer)
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

        return serve

    async def _serve(self, which: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect to a gateway that is up, the next one in turn, and copy in both directions until one side ends."""
        names = sorted(self.up or self.gateways)
        turn = next(self._turns)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            with contextlib.suppress(OSError):
                there = await asyncio.open_connection("127.0.0.1", self.gateways[name][which])
                break
        else:
            writer.write(UNAVAILABLE if which == 0 else b"")
            await writer.drain()
            return
        self._open.add(there[1])
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_copy(reader, there[1]))
                tasks.create_task(_copy(there[0], writer))
        finally:
            self._open.discard(there[1])
            there[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until one side ends, which ends the other."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
